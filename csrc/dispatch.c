/* Instruction set name -> tables of kernels. Calls cpu.c only. */
#include <stdlib.h>
#include <string.h>

#include "backend.h"

static const mxn_backend backends[] = {
#define MXN_BACKEND(name, float32_isa, int8_isa, detector_isa) \
    {#name, &mxn_float32_##float32_isa, &mxn_int8_##int8_isa, &mxn_detector_##detector_isa},
#include "backends.def"
#undef MXN_BACKEND
};
enum { BACKENDS = sizeof backends / sizeof *backends };

const mxn_backend *mxn_backend_available(int i) {
    const uint32_t features = mxn_cpu_features();
    for (int b = 0; b < BACKENDS && i >= 0; b++) {
        const uint32_t required = backends[b].float32->features | backends[b].int8->features | backends[b].detector->features;
        if ((required & ~features) == 0 && i-- == 0) return &backends[b];
    }
    return NULL;
}

const char *mxn_backend_name(const mxn_backend *backend) { return backend->name; }

bool mxn_backend_prefers_int8(const mxn_backend *backend) { return backend->int8->faster_than_float32; }

mxn_status mxn_backend_resolve(const char *isa, const mxn_backend **backend) {
    if (!isa || !*isa) isa = getenv("MXN_EDGE_ISA");
    const bool fastest = !isa || !*isa;
    const mxn_backend *candidate;
    for (int i = 0; (candidate = mxn_backend_available(i)) != NULL; i++) {
        if (!fastest && strcmp(isa, candidate->name) != 0) continue;
        *backend = candidate;
        return MXN_OK;
    }
    return MXN_ERROR_ISA;
}
