/* Plain C, for every CPU that has no file of its own. */
#include "../backend.h"
#include "../simd/target.h"
#include "../simd/scalar.h"

#include "../kernels/float32.inc.h"

#include "../simd/dot_scalar.h"

#include "../kernels/int8.inc.h"
#include "../kernels/detector.inc.h"

MXN_FLOAT32_TABLE(scalar, 0);
MXN_DETECTOR_TABLE(scalar, 0);
MXN_INT8_TABLE(scalar, 0, false);
