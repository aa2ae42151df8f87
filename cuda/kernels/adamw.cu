// AdamW (arXiv 1711.05101) on a flat range, moments in f32 or, stochastically rounded, in bf16; nothing if the gate is shut.
//
// Launch: 256 threads, in strides of the grid. A thread takes aligned groups of the flat buffer (4 elements, or 8 with bf16
// moments), so that every access but those to `publish` and at ragged ends has 16 bytes.
// Bytes per element: read w, g, m, v, write w, m, v: 28, or 20 with bf16 moments; 2 more to publish.
// budget: registers 64, blocks 4
#include "device.cuh"

static constexpr int THREADS = 256;

__device__ __forceinline__ double power(double base, u32 n) {
    double y = 1.0;
#pragma unroll 1
    for (; n > 0; n /= 2, base *= base) y = n % 2 ? y * base : y;
    return y;
}

template <class T, int N> __device__ __forceinline__ void load(const T* from, float (&x)[N]) {
#pragma unroll
    for (int k = 0; k < N; k += Pack<T>::n) {
        const Pack<T> pack = load_pack(from, k, N, true);
#pragma unroll
        for (int i = 0; i < Pack<T>::n; ++i) x[k + i] = pack.v[i];
    }
}

template <class T, int N> __device__ __forceinline__ void store(T* to, const float (&x)[N]) {
#pragma unroll
    for (int k = 0; k < N; k += Pack<T>::n) {
        Pack<T> pack;
#pragma unroll
        for (int i = 0; i < Pack<T>::n; ++i) pack.v[i] = x[k + i];
        store_pack(to, k, N, true, pack);
    }
}

// x, or with 16 random bits below the kept half added and what is below it cut off.
__device__ __forceinline__ float stochastic(float x, u32 random) {
    return fabsf(x) < INFINITY ? __uint_as_float((__float_as_uint(x) + random) & 0xffff0000u) : x;
}

template <class M>
__device__ void adamw(float* weights, const float* grad, M* m, M* v, bf16* publish, const float* gate, const u32* updates,
                      double lr, double beta1, double beta2, float keep, float eps, u64 seed, u64 offset, i64 n) {
    constexpr int N = Pack<M>::n;
    __shared__ float corrected[2];
    const u32 update = *updates;
    if (threadIdx.x == 0) {
        corrected[0] = float(lr / (1.0 - power(beta1, update)));
        corrected[1] = float(1.0 / sqrt(1.0 - power(beta2, update)));
    }
    __syncthreads();
    if (gate[2] == 0.f) return;
    const float scale = gate[0], rate = corrected[0], root = corrected[1];
    // From the f64 betas: 1 - float(0.999) differs from 0.001 in the fifth digit.
    const float b1 = float(beta1), c1 = float(1.0 - beta1), b2 = float(beta2), c2 = float(1.0 - beta2);

    const i64 lead = -i64(offset % N);
    const bool aligned = ((u64(weights + lead) | u64(grad + lead) | u64(m + lead) | u64(v + lead)) & 15) == 0 &&
                         (u64(publish + lead) & 7) == 0;
#pragma unroll 1
    for (i64 at = lead + (i64(blockIdx.x) * THREADS + threadIdx.x) * N; at < n; at += i64(gridDim.x) * THREADS * N) {
        const bool whole = aligned && at >= 0 && at + N <= n;
        const auto inside = [&](int i) { return at + i >= 0 && at + i < n; };
        float ws[N], gs[N], ms[N], vs[N];
        if (whole) {
            load(weights + at, ws), load(grad + at, gs), load(m + at, ms), load(v + at, vs);
        } else {
#pragma unroll
            for (int i = 0; i < N; ++i) {
                ws[i] = inside(i) ? weights[at + i] : 0.f, gs[i] = inside(i) ? grad[at + i] : 0.f;
                ms[i] = inside(i) ? to_float(m[at + i]) : 0.f, vs[i] = inside(i) ? to_float(v[at + i]) : 0.f;
            }
        }
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float g = gs[i] * scale;
            ms[i] = b1 * ms[i] + c1 * g;
            vs[i] = b2 * vs[i] + c2 * g * g;
            ws[i] = ws[i] * keep - rate * ms[i] / (sqrtf(vs[i]) * root + eps);
        }
        if constexpr (sizeof(M) == 2) {
#pragma unroll
            for (int k = 0; k < N; k += 4) {
                const uint4 random = philox(seed, update, (offset + u64(at + k)) / 4);
                const u32 words[4] = {random.x, random.y, random.z, random.w};
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    ms[k + i] = stochastic(ms[k + i], words[i] & 0xffffu);
                    vs[k + i] = stochastic(vs[k + i], words[i] >> 16);
                }
            }
        }
        if (whole) {
            store(weights + at, ws), store(m + at, ms), store(v + at, vs);
            if (publish) {
#pragma unroll
                for (int i = 0; i < N; i += 4)
                    *reinterpret_cast<uint2*>(publish + at + i) =
                        make_uint2(pack_bf16(ws[i], ws[i + 1]), pack_bf16(ws[i + 2], ws[i + 3]));
            }
        } else {
#pragma unroll
            for (int i = 0; i < N; ++i) {
                if (!inside(i)) continue;
                weights[at + i] = ws[i], m[at + i] = from_float<M>(ms[i]), v[at + i] = from_float<M>(vs[i]);
                if (publish) publish[at + i] = from_float<bf16>(ws[i]);
            }
        }
    }
}

#define INSTANCE(M)                                                                                                       \
    KERNEL(THREADS, 4)                                                                                                    \
    adamw_##M(float* weights, const float* grad, M* m, M* v, bf16* publish, const float* gate, const u32* updates,        \
              double lr, double beta1, double beta2, float keep, float eps, u64 seed, u64 offset, i64 n) {                \
        adamw(weights, grad, m, v, publish, gate, updates, lr, beta1, beta2, keep, eps, seed, offset, n);                 \
    }
INSTANCE(f32)
INSTANCE(bf16)
