/* AVX-512F. Its int8 kernels would need AVX-512BW as well, and be no faster than float32: those of AVX2 do. */
#include "../backend.h"

#if defined(__x86_64__)
#include "../simd/target.h"
#include <immintrin.h>

MXN_TARGET_BEGIN("avx512f,avx2,fma")
#include "../simd/avx512.h"

#include "../kernels/float32.inc.h"
#include "../kernels/detector.inc.h"
MXN_TARGET_END

MXN_FLOAT32_TABLE(avx512, MXN_CPU_AVX512F | MXN_CPU_AVX2 | MXN_CPU_FMA);
MXN_DETECTOR_TABLE(avx512, MXN_CPU_AVX512F | MXN_CPU_AVX2 | MXN_CPU_FMA);
#else
typedef int mxn_avx512_is_for_another_architecture;
#endif
