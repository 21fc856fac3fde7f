/* NEON: every AArch64 CPU, and those 32-bit ones that have fused multiply-add (VFPv4) too, from the Cortex-A7 on. */
#include "../backend.h"

#if defined(__aarch64__) || (defined(__arm__) && defined(__ARM_FP))
#include "../simd/target.h"
#include <arm_neon.h>

#if defined(__aarch64__)
MXN_TARGET_BEGIN("arch=armv8-a")
#elif defined(__clang__)
MXN_TARGET_BEGIN("neon,vfp4,vfp4d16,vfp4d16sp,vfp4sp,fp16") /* what vfp4 implies, where -mcpu= has switched it off */
#else
MXN_TARGET_BEGIN("fpu=neon-vfpv4")
#endif
#include "../simd/neon.h"

#include "../kernels/float32.inc.h"

#include "../simd/dot_neon.h"

#include "../kernels/int8.inc.h"
#include "../kernels/detector.inc.h"
MXN_TARGET_END

MXN_FLOAT32_TABLE(neon, MXN_CPU_NEON);
MXN_DETECTOR_TABLE(neon, MXN_CPU_NEON);
MXN_INT8_TABLE(neon, MXN_CPU_NEON, false);
#else
typedef int mxn_neon_is_for_another_architecture;
#endif
