// Sum of squares in f64, in two steps whose order depends on the size alone: one partial sum per block, then their total.
// Not finite if any element is not.
//
// sum_squares: 256 threads; blocks for 16 packs a thread, at most 1,024, in strides of the grid.
// sum_squares_total: one block of 256 threads, sum += the partial sums.
// Bytes per element: read 4 or 2.
// budget: registers 40, blocks 6
#include "device.cuh"

static constexpr int THREADS = 256;

template <class T> __device__ void sum_squares(const T* x, i64 n, double* partial) {
    constexpr int per_pack = Pack<T>::n;
    __shared__ double scratch[THREADS / 32];
    const bool wide = aligned16(x, 0);
    double sums[4] = {};
    const i64 stride = i64(gridDim.x) * THREADS * per_pack;
#pragma unroll 1
    for (i64 at = (i64(blockIdx.x) * THREADS + threadIdx.x) * per_pack; at < n; at += stride) {
        const int count = n - at < per_pack ? int(n - at) : per_pack;
        const Pack<T> pack = load_pack(x + at, 0, count, wide);
#pragma unroll
        for (int i = 0; i < per_pack; ++i) sums[i % 4] += double(pack.v[i]) * double(pack.v[i]);
    }
    const double sum = block_sum<THREADS>((sums[0] + sums[1]) + (sums[2] + sums[3]), scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

#define INSTANCE(T) \
    KERNEL(THREADS, 6) sum_squares_##T(const T* x, i64 n, double* partial) { sum_squares(x, n, partial); }
INSTANCE(f32)
INSTANCE(bf16)

KERNEL(THREADS, 6) sum_squares_total(const double* partial, int count, double* sum) {
    __shared__ double scratch[THREADS / 32];
    double mine = 0.0;
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += THREADS) mine += partial[i];
    const double total = block_sum<THREADS>(mine, scratch);
    if (threadIdx.x == 0) *sum += total;
}
