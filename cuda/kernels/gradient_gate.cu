// Whether an update is applied, and the factor that clips its gradient: gate = {scale, norm, finite, 0} from the sum of
// squares of the gradients; updates += finite.
//
// Launch: one warp. Bytes: a few.
// budget: registers 32, blocks 1
#include "device.cuh"

__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) < INFINITY; }

KERNEL(32, 1)
gradient_gate(const double* sum, const float* losses, int count, double clip, float* gate, u32* updates) {
    bool finite = true;
    for (int i = threadIdx.x; i < count; i += 32) finite = finite && is_finite(losses[i]);
    finite = __all_sync(FULL, finite);
    if (threadIdx.x != 0) return;
    const double norm = sqrt(*sum);
    // Infinity and NaN differ from themselves by NaN.
    finite = finite && norm - norm == 0.0;
    const double scale = clip > 0.0 && norm > clip ? clip / norm : 1.0;
    gate[0] = finite ? float(scale) : 0.f;
    gate[1] = float(norm);
    gate[2] = finite ? 1.f : 0.f;
    gate[3] = 0.f;
    *updates += finite;
}
