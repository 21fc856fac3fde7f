/* NEON: every AArch64 CPU, so that no target region is needed. */
#include "../backend.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include "../simd/target.h"
#include "../simd/neon.h"

#include "../kernels/all.inc.h"

MXN_BACKEND_TABLE(neon, MXN_CPU_NEON);
#else
typedef int mxn_backend_neon_is_for_another_architecture;
#endif
