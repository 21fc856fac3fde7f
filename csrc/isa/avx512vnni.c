/* AVX-512 VNNI: int8 and the detector. */
#include "../backend.h"

#if defined(__x86_64__)
#include "../simd/target.h"
#include <immintrin.h>

MXN_TARGET_BEGIN("avx512f,avx512vnni,avx2,fma")
#include "../simd/avx512.h"
#include "../simd/dot_avx512vnni.h"

#include "../kernels/int8.inc.h"

#include "../kernels/conv_tile.inc.h"
#include "../kernels/detector.inc.h"
MXN_TARGET_END

MXN_INT8_TABLE(avx512vnni, MXN_CPU_AVX512F | MXN_CPU_AVX512VNNI | MXN_CPU_AVX2 | MXN_CPU_FMA, true);
MXN_DETECTOR_TABLE(avx512vnni, MXN_CPU_AVX512F | MXN_CPU_AVX512VNNI | MXN_CPU_AVX2 | MXN_CPU_FMA);
#else
typedef int mxn_avx512vnni_is_for_another_architecture;
#endif
