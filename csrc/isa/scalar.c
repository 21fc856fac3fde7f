/* Plain C, for every CPU that has no file of its own. */
#include "../backend.h"
#include "../simd/target.h"
#include "../simd/scalar.h"

#include "../kernels/all.inc.h"

MXN_BACKEND_TABLE(scalar, 0);
