/* AVX-VNNI: int8 and the detector. */
#include "../backend.h"

#if defined(__x86_64__)
#include "../simd/target.h"
#include <immintrin.h>

MXN_TARGET_BEGIN("avxvnni,avx2,fma")
#include "../simd/avx2.h"
#include "../simd/dot_avxvnni.h"

#include "../kernels/int8.inc.h"

#include "../kernels/conv_tile.inc.h"
#include "../kernels/detector.inc.h"
MXN_TARGET_END

MXN_INT8_TABLE(avxvnni, MXN_CPU_AVXVNNI | MXN_CPU_AVX2 | MXN_CPU_FMA, true);
MXN_DETECTOR_TABLE(avxvnni, MXN_CPU_AVXVNNI | MXN_CPU_AVX2 | MXN_CPU_FMA);
#else
typedef int mxn_avxvnni_is_for_another_architecture;
#endif
