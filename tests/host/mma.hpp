// The two PTX instructions that kernels/mma.cuh wraps, for g++: the products of a warp's lanes.

namespace {

// cvt.rna.tf32.f32: to the nearest with 10 bits behind the point, away from zero in the middle.
inline unsigned to_tf32(float x) {
    if (x != x) return 0x7FFFFFFF;
    return (__builtin_bit_cast(unsigned, x) + 0x1000) & ~0x1FFFu;
}

namespace host {

struct Factors { const unsigned *A, *B; };

// What a tensor core may assume: that someone has rounded.
float tf32(unsigned bits) {
    const float x = __builtin_bit_cast(float, bits);
    if (bits & 0x1FFF && x == x) fail("a factor of mma_m16n8k8() is not rounded to TF32");
    return x;
}

}  // namespace host

// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32, in the layout of the PTX manual: which lane
// and which of its registers has an entry of A (16 x 8), B (8 x 8) and the sum (16 x 8).
inline void mma_m16n8k8(float (&sum)[4], const unsigned (&A)[4], const unsigned (&B)[2], HOST_LINE) {
    const host::Factors mine{A, B};
    const auto address = reinterpret_cast<host::Word>(&mine);
    if (host::meet("mma_m16n8k8", ~0u, address, line) != ~0u)
        host::fail("mma_m16n8k8() on line %d lacks lanes that have returned", line);
    const auto of_lane = [](int lane) -> const host::Factors& {
        return *reinterpret_cast<const host::Factors*>(host::warp().seen[lane]);
    };
    const int lane = host::lane_id();
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 8; ++k) {
            const unsigned a = of_lane(row % 8 * 4 + k % 4).A[(row < 8 ? 0 : 1) + (k < 4 ? 0 : 2)];
            const unsigned b = of_lane(column * 4 + k % 4).B[k < 4 ? 0 : 1];
            sum[i] += host::tf32(a) * host::tf32(b);
        }
    }
    host::meet("mma_m16n8k8", ~0u, 0, line);  // the others read what is mine
}

}  // namespace
