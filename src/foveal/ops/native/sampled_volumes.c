/* Sampled convolution of volumes: that of images, with a third coordinate and eight voxels a point. */
#define DIMS 3
#define sampled_forward sampled_volumes_forward
#define sampled_backward sampled_volumes_backward
#include "sampled.c"
