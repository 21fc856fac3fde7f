/* What the checks of the core share: weights, faces and memory for them, and the checks themselves. Each compares a backend with
 * the references or with the scalar one. */
#ifndef CHECKS_H
#define CHECKS_H

#include "../../../csrc/model.h"

/* ---- samples.c --------------------------------------------------------------------------------------------------- */

/* The same sequence in every run. */
uint32_t random_bits(void);
/* -scale to scale; freed by the caller. */
float *random_weights(size_t count, double scale);
/* `scale` on the biases of all but the last layer: 1, or what lets activations fill 0..255 for int8. */
mxn_weights make_weights(const mxn_config *c, double scale);
void free_weights(mxn_weights *w);

/* Kinds of faces: noise; black but for one pixel at a border or corner; a smooth ramp. */
void make_face(int kind, uint8_t *face);
enum { FACES = 42 };

/* Memory between pages that may not be touched, against the upper or the lower one. Never given back. */
void *guarded(size_t bytes, bool upper);

/* ---- check_network.c --------------------------------------------------------------------------------------------- */

/* Faces with their logits by the reference. */
typedef struct sample {
    mxn_config config;
    mxn_weights weights;
    bool quantised; /* fc1 */
    int faces;
    uint8_t bytes[FACES][MXN_FACE_PIXELS];
    float floats[FACES][MXN_FACE_PIXELS];
    double expected[FACES * MXN_CLASSES_MAX];
} sample;

void make_sample(sample *s, mxn_config config, int first_kind, bool quantised);

/* Largest difference from the reference, relative to the largest logit. */
double check_network(const mxn_backend *backend, mxn_algorithm algorithm, const sample *s);
/* The convolutions on guarded buffers. What scratch and the insides of the buffers hold before must not matter, nor whether conv1
 * reads the face as it is, and the paddings must stay zero. Returns the number of wrong values. */
int check_convolutions(const mxn_backend *backend, mxn_algorithm algorithm, const sample *s);
/* fc1 in fixed point on guarded buffers, faces alone and together: the largest error, as a share of what the digits and the
 * rounding of floats allow. 0 where the backend has no such kernel. */
double check_fixed_point(const mxn_backend *backend);
/* Every call of several threads gives the bits of a call of one, whoever finds the team at work. Returns the number of wrong
 * calls. */
int check_team(const mxn_backend *backend);

/* ---- check_int8.c ------------------------------------------------------------------------------------------------ */

/* Kinds of weights for int8. */
enum { RANDOM, LARGEST, SMALLEST, ALTERNATING, KINDS_OF_WEIGHTS };

/* Adds to each backend's count the faces whose logits are not the reference's, bit for bit. */
void check_int8_network(const mxn_backend *const *backends, int count, const mxn_config *config, int kind,
                        int first_face, int *wrong);
/* The kernels one by one on guarded buffers, with other contents before. Returns the number of wrong values. */
int check_int8_kernels(const mxn_backend *backend, const mxn_config *config);

/* ---- check_pictures.c and check_detector.c ----------------------------------------------------------------------- */

/* Crops must be the same pixels on every backend. Returns how many differ from `scalar`. */
int check_crops(const mxn_backend *backend, const mxn_backend *scalar);
/* Reduced frames must be the same pixels on every backend; the frame ends where memory does. Returns how many differ from
 * `scalar`. */
int check_scaling(const mxn_backend *backend, const mxn_backend *scalar);

/* Both networks of the detector beside the scalar backend: the largest relative error, which infinity stands for when
 * whole frames go wrong. One workspace serves all sizes. */
double check_detector(const mxn_backend *backend, const mxn_backend *scalar);

#endif
