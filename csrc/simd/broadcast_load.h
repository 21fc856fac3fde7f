/* Of the instruction sets whose broadcast is a load: four neighbouring floats for vf_broadcast_lane() are their place. */
typedef const float *vf_four;
MXN_INLINE vf_four vf_load_four(const float *p) { return p; }
MXN_INLINE vf vf_broadcast_lane(vf_four a, int lane) { return vf_broadcast(a + lane); }
