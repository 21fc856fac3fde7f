/* The version of the binary interface that was compiled. Calls nothing. */
#include "mxn.h"

int mxn_abi_version(void) { return MXN_ABI_VERSION; }
