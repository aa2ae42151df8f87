// Variable-length softmax attention (arXiv 2205.14135, 2307.08691): o = softmax(scale q kᵀ) v within each document, and
// the natural logarithm of each row's sum of exponentials. bf16 on tensor cores (mma.sync), sums and softmax in f32.
//
// Launch: 128 queries of a document and head per block (8 warps, or 4 with twice the rows for heads up to 80); a 1-D
// grid with the heads innermost, sized for T / 128 + documents + 1 tiles, of which blocks find theirs in the boundaries
// on the device. Tiles of 64 keys and values pass by in two stages. The tiles of a document that see most keys come
// first.
// Flops: 4 head_dim per query, head and key seen. Bytes: q and o once, k and v once per query tile (mostly from L2).
// budget: registers 246, blocks 1, shared 102 KiB
#include "device.cuh"

static constexpr float LOG2E = 1.44269504f, LN2 = 0.693147181f;
static constexpr int QUERIES = 128, KEYS = 64, STAGES = 2;

template <int D> struct Shared {
    // 16 M queries a warp: two share what is read of k and v, as long as the sums fit into registers.
    static constexpr int M = D > 80 ? 1 : 2, THREADS = QUERIES / (16 * M) * 32;
    Tile<QUERIES, D> q;
    Tile<KEYS, D> k[STAGES], v[STAGES];
};

template <int D>
__device__ __forceinline__ void attention(const bf16* q, i64 ldq, const bf16* k, i64 ldk, const bf16* v, i64 ldv,
                                          const u32* bounds_q, const u32* bounds_k, int documents, int t, int s,
                                          int heads, int group, int cols, float scale, int causal, bf16* o, i64 ldo,
                                          float* lse, i64 ld_lse) {
    constexpr int M = Shared<D>::M, THREADS = Shared<D>::THREADS;
    extern __shared__ uint4 dynamic[];
    Shared<D>& shared = *reinterpret_cast<Shared<D>*>(dynamic);
    const int head = blockIdx.x % heads;
    DocumentTile at;
    if (!find_tile(bounds_q, documents, t, QUERIES, blockIdx.x / heads, at)) return;
    const bool outside = at.document == documents;
    const Range keys = outside ? Range{0, 0} : document_rows(bounds_k, documents, at.document, s);
    const int queries = at.rows.len, first = (at.tiles - 1 - at.tile) * QUERIES;
    q += at.rows.begin * ldq + head * cols, o += at.rows.begin * ldo + head * cols;
    k += keys.begin * ldk + head / group * cols, v += keys.begin * ldv + head / group * cols;
    lse += at.rows.begin * ld_lse + head;

    // How many keys a query sees: the last one sees all.
    const int shift = causal ? keys.len - queries : keys.len;
    auto seen = [&](int query) { return max(0, min(keys.len, query + 1 + shift)); };
    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * M, row = first + warp_row;
    const int warp_begin = seen(row), warp_end = row < queries ? seen(min(row + 16 * M, queries) - 1) : 0;
    const int steps = (seen(min(first + QUERIES, queries) - 1) + KEYS - 1) / KEYS;

    const bool wide = aligned16(k, ldk) && aligned16(v, ldv);
    auto load = [&](int step) {
        load_tile<THREADS>(shared.k[step % STAGES], k, ldk, step * KEYS, keys.len, cols, wide);
        load_tile<THREADS>(shared.v[step % STAGES], v, ldv, step * KEYS, keys.len, cols, wide);
    };
    if (steps > 0) {
        load_tile<THREADS>(shared.q, q, ldq, first, queries, cols, aligned16(q, ldq));
        load(0);
        cp_async_commit();
    }

    const float scale2 = scale * LOG2E;
    Accumulator<M, D / 8> sum;
    sum.clear();
    KeptRows<D, M> kept;  // queries, where there is room
    float largest[M][2], total[M][2];
#pragma unroll
    for (int i = 0; i < 2 * M; ++i) largest[i / 2][i % 2] = -INFINITY, total[i / 2][i % 2] = 0.f;

#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<0>();
        __syncthreads();  // the tile has come for all warps, and all have left the stage that is filled next
        if (step + 1 < steps) load(step + 1);
        cp_async_commit();
        const int key = step * KEYS;
        if (key >= warp_end) continue;

        Accumulator<M, KEYS / 8> p;
        const u32 q_rows = left_address(shared.q, warp_row), k_rows = right_address(shared.k[step % STAGES]);
        if constexpr (M == 1) {
            if (step == 0) kept.keep(q_rows);
            multiply_rows<D>(p, kept, k_rows);
        } else {
            multiply_rows<D>(p, SharedRows<D, M>{q_rows}, k_rows);
        }
        if (key + KEYS > warp_begin) {
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int live = seen(row + m * 16 + half * 8 + lane / 4) - key - lane % 4 * 2;
#pragma unroll
                    for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                        for (int e = 0; e < 2; ++e)
                            if (n * 8 + e >= live) p.at[m][n][half * 2 + e] = -INFINITY;
                }
        }
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float top = largest[m][half];
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
                    top = fmaxf(top, fmaxf(p.at[m][n][half * 2], p.at[m][n][half * 2 + 1]));
                top = fmaxf(top, __shfl_xor_sync(FULL, top, 1));
                top = fmaxf(top, __shfl_xor_sync(FULL, top, 2));
                const float base = top == -INFINITY ? 0.f : top * scale2;
                const float correction = exp2_approx(largest[m][half] * scale2 - base);
                largest[m][half] = top;
                float part = 0.f;
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                    for (int e = half * 2; e < half * 2 + 2; ++e)
                        part += p.at[m][n][e] = exp2_approx(p.at[m][n][e] * scale2 - base);
                total[m][half] = total[m][half] * correction + part;
#pragma unroll
                for (int n = 0; n < D / 8; ++n)
                    sum.at[m][n][half * 2] *= correction, sum.at[m][n][half * 2 + 1] *= correction;
            }
        multiply_add<D>(sum, p, left_address(shared.v[step % STAGES], 0));
    }
    cp_async_wait<0>();

    // Each lane of four has its own part of a row's sum.
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float& l = total[m][half];
            l += __shfl_xor_sync(FULL, l, 1);
            l += __shfl_xor_sync(FULL, l, 2);
            const int query = row + m * 16 + half * 8 + lane / 4;
            if (lane % 4 == 0 && query < queries)
                lse[query * ld_lse] =
                    l == 0.f ? (outside ? 0.f : -INFINITY) : fmaf(largest[m][half], scale, log2_approx(l) * LN2);
        }
    auto inverse = [&](int m, int half) { return total[m][half] == 0.f ? 0.f : 1.f / total[m][half]; };
    store_rows<QUERIES, D>(sum, inverse, shared.q, warp_row, o, ldo, first, queries, cols, aligned16(o, ldo));
}

#define INSTANCE(D, BLOCKS)                                                                                              \
    KERNEL(Shared<D>::THREADS, BLOCKS)                                                                                   \
    attention_d##D##_bf16(const bf16* q, i64 ldq, const bf16* k, i64 ldk, const bf16* v, i64 ldv, const u32* bounds_q,   \
                          const u32* bounds_k, int documents, int t, int s, int heads, int group, int cols, float scale, \
                          int causal, bf16* o, i64 ldo, float* lse, i64 ld_lse) {                                        \
        attention<D>(q, ldq, k, ldk, v, ldv, bounds_q, bounds_k, documents, t, s, heads, group, cols, scale, causal, o,  \
                     ldo, lse, ld_lse);                                                                                  \
    }
INSTANCE(16, 3)
INSTANCE(32, 3)
INSTANCE(64, 2)
INSTANCE(80, 2)
INSTANCE(96, 1)
INSTANCE(128, 1)
