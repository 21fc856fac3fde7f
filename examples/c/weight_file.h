/* Weight files (safetensors, as mxn-edge writes them) for programs in C. */
#ifndef WEIGHT_FILE_H
#define WEIGHT_FILE_H

#include "mxn.h"

/* Reads and checks a weight file. Returns NULL, or what is wrong with it. Believes nothing in the file: whatever it holds,
 * no memory is read or written out of bounds, and none is lost. */
const char *weight_file_read(const char *path, mxn_student *student);
void weight_file_free(mxn_student *student);

#endif
