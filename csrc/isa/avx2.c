/* AVX2 with FMA. */
#include "../backend.h"

#if defined(__x86_64__)
#include "../simd/target.h"
#include <immintrin.h>

MXN_TARGET_BEGIN("avx2,fma")
#include "../simd/avx2.h"

#include "../kernels/float32.inc.h"

#include "../simd/dot_avx2.h"

#include "../kernels/int8.inc.h"
#include "../kernels/detector.inc.h"
MXN_TARGET_END

MXN_FLOAT32_TABLE(avx2, MXN_CPU_AVX2 | MXN_CPU_FMA);
MXN_DETECTOR_TABLE(avx2, MXN_CPU_AVX2 | MXN_CPU_FMA);
MXN_INT8_TABLE(avx2, MXN_CPU_AVX2 | MXN_CPU_FMA, false);
#else
typedef int mxn_avx2_is_for_another_architecture;
#endif
