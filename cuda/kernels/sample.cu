// One token per row: the likeliest, or a draw from the likeliest tokens that together reach top_p, in order of id.
//
// Launch: one block of 512 threads per row. The lowest score that is kept is found by bisection over the 2^32 ordered
// patterns of a float, so nothing is sorted: 34 passes over the row, from L2 after the first. The draw narrows the ids down
// by a factor of 512 a pass.
// budget: registers 64, blocks 1
#include "device.cuh"

static constexpr int THREADS = 512;

// An unsigned number that orders as the float does; both zeros are alike, 0 for NaN.
__device__ __forceinline__ u32 rank(float x) {
    if (x != x) return 0;
    const u32 bits = __float_as_uint(x + 0.f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float score(u32 rank) {
    return __uint_as_float(rank & 0x80000000u ? rank & 0x7fffffffu : ~rank);
}

__device__ __forceinline__ u64 block_max(u64 x, u64* scratch) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        const u64 other = __shfl_xor_sync(FULL, x, offset);
        x = other > x ? other : x;
    }
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    for (int i = 0; i < THREADS / 32; ++i) x = scratch[i] > x ? scratch[i] : x;
    return x;
}

template <class T>
__device__ void sample(const T* logits, i64 ld, int cols, float inverse_temperature, double top_p, u64 seed, u64 index,
                       u32* out) {
    __shared__ u64 best[THREADS / 32];
    __shared__ double scratch[THREADS / 32], masses[THREADS];
    __shared__ u32 equals[THREADS];
    __shared__ int chosen;
    __shared__ double rest;
    __shared__ u32 passed;
    logits += blockIdx.x * ld;

    // The highest score; among equals the lowest id, whose complement is the highest.
    u64 mine = 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < cols; i += THREADS) {
        const u64 key = u64(rank(to_float(logits[i]))) << 32 | ~u32(i);
        mine = key > mine ? key : mine;
    }
    const u64 winner = block_max(mine, best);
    const u32 top = u32(winner >> 32);
    if (inverse_temperature == 0.f || top_p <= 0.0) {
        if (threadIdx.x == 0) out[blockIdx.x] = ~u32(winner);
        return;
    }

    const float max = score(top);
    const auto weight = [&](u32 rank) {
        return rank == 0 ? 0.f : rank == top ? 1.f : expf((score(rank) - max) * inverse_temperature);
    };
    // Weight of all scores above a rank, the same in every thread.
    const auto above = [&](u32 bound) {
        double sum = 0.0;
#pragma unroll 4
        for (int i = threadIdx.x; i < cols; i += THREADS) {
            const u32 r = rank(to_float(logits[i]));
            sum += r > bound ? double(weight(r)) : 0.0;
        }
        return block_sum<THREADS>(sum, scratch);
    };
    const double target = top_p * above(0);
    // The lowest rank with less than the target above it: of its scores, the first in order of id are kept.
    u32 lowest = 1, highest = top;
#pragma unroll 1
    while (lowest < highest) {
        const u32 middle = lowest + (highest - lowest) / 2;
        if (above(middle) < target)
            highest = middle;
        else
            lowest = middle + 1;
    }
    const double edge = weight(lowest), whole = above(lowest);
    // Rounding may count one too many, of a weight that is then negligible.
    const u32 kept = edge > 0.0 ? u32(fmin(ceil((target - whole) / edge), double(cols))) : 0;

    const u64 draw = index + blockIdx.x;
    const uint4 words = philox(seed, 0, draw / 2);
    const u64 bits = draw % 2 ? u64(words.z) << 32 | words.w : u64(words.x) << 32 | words.y;
    const double uniform = double(bits >> 11) * (1.0 / 9007199254740992.0);
    if (threadIdx.x == 0) rest = uniform * (whole + kept * edge), passed = 0;
    // Which of THREADS segments holds the draw, until segments have one token.
    int first = 0, last = cols, segment;
#pragma unroll 1
    do {
        segment = (last - first + THREADS - 1) / THREADS;
        const int start = first + int(threadIdx.x) * segment;
        double mass = 0.0;
        u32 equal = 0;
#pragma unroll 1
        for (int i = start; i < last && i < start + segment; ++i) {
            const u32 r = rank(to_float(logits[i]));
            mass += r > lowest ? double(weight(r)) : 0.0;
            equal += r == lowest;
        }
        masses[threadIdx.x] = mass, equals[threadIdx.x] = equal;
        __syncthreads();
        if (threadIdx.x == 0) {
            // The last segment of any weight, should rounding leave something over.
            double left = rest, left_there = rest;
            u32 seen = passed, seen_there = passed;
#pragma unroll 1
            for (int s = 0; s < THREADS; ++s) {
                const u32 more = kept > seen ? kept - seen : 0, counted = equals[s] < more ? equals[s] : more;
                const double mass = masses[s] + counted * edge;
                if (mass > 0.0) {
                    chosen = s, left_there = left, seen_there = seen;
                    if (left < mass) break;
                    left -= mass;
                }
                seen += equals[s];
            }
            rest = left_there, passed = seen_there;
        }
        __syncthreads();
        first += chosen * segment;
        last = first + segment < last ? first + segment : last;
    } while (segment > 1);
    if (threadIdx.x == 0) out[blockIdx.x] = first;
}

#define INSTANCE(T)                                                                                                       \
    KERNEL(THREADS, 1)                                                                                                    \
    sample_##T(const T* logits, i64 ld, int cols, float inverse_temperature, double top_p, u64 seed, u64 index,           \
               u32* out) {                                                                                                \
        sample(logits, ld, cols, inverse_temperature, top_p, seed, index, out);                                           \
    }
INSTANCE(f32)
INSTANCE(bf16)
