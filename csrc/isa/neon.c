/* NEON: every AArch64 CPU, so that no target region is needed. */
#include "../backend.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include "../simd/target.h"
#include "../simd/neon.h"

#include "../kernels/float32.inc.h"

#include "../simd/dot_neon.h"

#include "../kernels/int8.inc.h"

MXN_FLOAT32_TABLE(neon, MXN_CPU_NEON);
MXN_INT8_TABLE(neon, MXN_CPU_NEON, false);
#else
typedef int mxn_neon_is_for_another_architecture;
#endif
