/* NEON with the dot products of ARMv8.2: int8 only. */
#include "../backend.h"

#if defined(__aarch64__)
#include "../simd/target.h"
#include <arm_neon.h>

#if defined(__clang__)
MXN_TARGET_BEGIN("dotprod")
#else
MXN_TARGET_BEGIN("arch=armv8.2-a+dotprod")
#endif
#include "../simd/neon.h"
#include "../simd/dot_neondot.h"

#include "../kernels/int8.inc.h"
MXN_TARGET_END

MXN_INT8_TABLE(neondot, MXN_CPU_NEON | MXN_CPU_DOTPROD, true);
#else
typedef int mxn_neondot_is_for_another_architecture;
#endif
