/* AVX-512 with dot products of bfloat16: the detector only. */
#include "../backend.h"

#if defined(__x86_64__)
#include "../simd/target.h"
#include <immintrin.h>

MXN_TARGET_BEGIN("avx512f,avx512bf16,avx2,fma")
#include "../simd/avx512.h"
#include "../simd/pairs_avx512bf16.h"

#include "../kernels/conv_tile.inc.h"
#include "../kernels/detector.inc.h"
MXN_TARGET_END

MXN_DETECTOR_TABLE(avx512bf16, MXN_CPU_AVX512F | MXN_CPU_AVX512BF16 | MXN_CPU_AVX2 | MXN_CPU_FMA);
#else
typedef int mxn_avx512bf16_is_for_another_architecture;
#endif
