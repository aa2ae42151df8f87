// y[index[i]] += x[i] in the order of i, NO_ROW skipped; no atomics, so that sums do not depend on timing.
//
// Launch: a block of 256 threads per index. The block of the first index of a row of y adds for all: it lists the equal
// indices in order, then sums their rows of x, each thread its own columns. Every such block reads the whole index list
// (64 KiB for 16,384 indices, which stay in the L1 cache), about as long as a row of 4,096 columns takes.
// Bytes per element of x: reads x once, reads and writes y once per distinct row.
// budget: registers 64, blocks 4
#include "device.cuh"

static constexpr u32 THREADS = 256, WARPS = THREADS / 32, EACH = 2, TILE = THREADS * EACH, CAPACITY = 2 * TILE;

template <int N, class X, class Y>
__device__ void add_rows(const X* x, i64 ldx, const u32* hits, u32 count, Y* y, int cols) {
#pragma unroll 1
    for (int col = threadIdx.x * N; col < cols; col += THREADS * N) {
        Floats<N> sum = load<N>(y + col);
#pragma unroll 8
        for (u32 hit = 0; hit < count; ++hit) {
            const Floats<N> v = load<N>(x + hits[hit] * ldx + col);
#pragma unroll
            for (int i = 0; i < N; ++i) sum.v[i] += v.v[i];
        }
        store(y + col, sum);
    }
}

template <class X, class Y>
__device__ void scatter_add(const X* x, i64 ldx, u32 rows, const u32* index, Y* y, i64 ldy, u32 y_rows, int cols,
                            IndexFault* fault, u32 op) {
    __shared__ u32 hits[CAPACITY], votes[WARPS];
    constexpr int n = Pack<X>::n;
    const u32 own = blockIdx.x, row = index[own], lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (row >= y_rows) {
        if (row != NO_ROW && threadIdx.x == 0) report(fault, op, own, row, y_rows);
        return;
    }
    y += row * ldy;
    const bool wide = cols % n == 0 && aligned16(x, ldx) && aligned16(y, 0);
    u32 count = 0;
#pragma unroll 1
    for (u32 tile = 0; tile < rows; tile += TILE) {
        u32 matches = 0;
#pragma unroll
        for (u32 k = 0; k < EACH; ++k) {
            const u32 i = tile + k * THREADS + threadIdx.x;
            matches |= u32(i < rows && index[min(i, rows - 1)] == row) << k;
        }
        if (__syncthreads_or(matches)) {
            // Own index among them or not, the first match of all decides.
            bool earlier = false;
#pragma unroll 1
            for (u32 k = 0; k < EACH; ++k) {
                const u32 i = tile + k * THREADS + threadIdx.x;
                const bool hit = matches >> k & 1;
                const u32 ballot = __ballot_sync(FULL, hit);
                if (lane == 0) votes[warp] = __popc(ballot);
                __syncthreads();
                u32 at = count + __popc(ballot & ((1u << lane) - 1));
#pragma unroll
                for (u32 w = 0; w < WARPS; ++w) {
                    count += votes[w];
                    if (w < warp) at += votes[w];
                }
                if (hit) hits[at] = i;
                earlier |= hit && i < own;
                __syncthreads();
            }
            if (__syncthreads_or(earlier)) return;
        }
        if (count + TILE > CAPACITY || tile + TILE >= rows) {
            if (wide)
                add_rows<n>(x, ldx, hits, count, y, cols);
            else
                add_rows<1>(x, ldx, hits, count, y, cols);
            count = 0;
            __syncthreads();
        }
    }
}

#define INSTANCE(X, Y)                                                                                                    \
    KERNEL(THREADS, 4)                                                                                                   \
    scatter_add_rows_##X##_##Y(const X* x, i64 ldx, u32 rows, const u32* index, Y* y, i64 ldy, u32 y_rows, int cols,      \
                               IndexFault* fault, u32 op) {                                                               \
        scatter_add(x, ldx, rows, index, y, ldy, y_rows, cols, fault, op);                                                \
    }
INSTANCE(f32, f32)
INSTANCE(bf16, f32)
INSTANCE(bf16, bf16)
