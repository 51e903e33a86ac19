// The part of cuBLAS that the library calls, on the CPU, with the signatures of NVIDIA's
// cublas_api.h. As strict as cuBLAS, or stricter: what it answers with an error or with garbage is
// an error here.

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {
constexpr int OK = 0, NOT_INITIALIZED = 1, INVALID = 7, NOT_SUPPORTED = 15;
constexpr std::size_t ENOUGH = 32 << 20;

struct Handle {
    void* stream;
    void* workspace;
    std::size_t bytes;
    long products;
    int pointers_to_device;
};
Handle* open_handle = nullptr;

// Rounds a float to the nearest with so many bits of mantissa fewer, to even in the middle.
float rounded(float x, int bits) {
    std::uint32_t u;
    std::memcpy(&u, &x, 4);
    u += (1u << (bits - 1)) - 1 + (u >> bits & 1);
    u &= ~((1u << bits) - 1);
    std::memcpy(&x, &u, 4);
    return x;
}

float of_bfloat16(std::uint16_t bits) {
    const std::uint32_t u = std::uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &u, 4);
    return x;
}

// C = alpha A B + beta C, by a handle that was told where the two numbers are: those of the host
// have to be 1 and 0. `round` makes a T of a factor's entry.
template <class Factor, class T, class Round>
int multiply(const void* alpha_at, const void* beta_at, bool transpose_a, bool transpose_b, int m,
             int n, int k, const Factor* A, int lda, const Factor* B, int ldb, T* C, int ldc,
             Round round) {
    const T alpha = *static_cast<const T*>(alpha_at), beta = *static_cast<const T*>(beta_at);
    if (!open_handle->pointers_to_device && (alpha != 1 || beta != 0)) return INVALID;
    for (long j = 0; j < n; ++j)
        for (long i = 0; i < m; ++i) {
            T sum = 0;
            for (long p = 0; p < k; ++p)
                sum += round(transpose_a ? A[p + i * lda] : A[i + p * lda]) *
                       round(transpose_b ? B[j + p * ldb] : B[p + j * ldb]);
            C[i + j * ldc] = beta ? alpha * sum + beta * C[i + j * ldc] : alpha * sum;
        }
    return OK;
}
}  // namespace

extern "C" {
int cublasCreate_v2(void** handle) {
    *handle = open_handle = new Handle{};
    return OK;
}

int cublasDestroy_v2(void* handle) {
    if (!handle || handle != open_handle) return NOT_INITIALIZED;
    delete open_handle;
    open_handle = nullptr;
    return OK;
}

int cublasSetStream_v2(void* handle, void* stream) {
    if (!handle || handle != open_handle) return NOT_INITIALIZED;
    open_handle->stream = stream;
    open_handle->workspace = nullptr;  // is forgotten
    open_handle->bytes = 0;
    return OK;
}

int cublasSetPointerMode_v2(void* handle, int mode) {
    if (!handle || handle != open_handle) return NOT_INITIALIZED;
    if (mode < 0 || mode > 1) return INVALID;
    open_handle->pointers_to_device = mode;
    return OK;
}

int cublasSetWorkspace_v2(void* handle, void* workspace, std::size_t bytes) {
    if (!handle || handle != open_handle) return NOT_INITIALIZED;
    open_handle->workspace = workspace;
    open_handle->bytes = bytes;
    return OK;
}

int cublasGemmEx(void* handle, int op_a, int op_b, int m, int n, int k, const void* alpha,
                 const void* A, int type_a, int lda, const void* B, int type_b, int ldb,
                 const void* beta, void* C, int type_c, int ldc, int compute, int algorithm) {
    if (!handle || handle != open_handle) return NOT_INITIALIZED;
    if (!open_handle->workspace || open_handle->bytes < ENOUGH) return INVALID;
    if (op_a < 0 || op_a > 1 || op_b < 0 || op_b > 1 || m < 1 || n < 1 || k < 1) return INVALID;
    if (lda < (op_a ? k : m) || ldb < (op_b ? n : k) || ldc < m || algorithm != -1) return INVALID;
    const bool bfloat16 = type_a == 14 && type_c == 0;
    if (type_a != type_b || (type_a != type_c && !bfloat16)) return NOT_SUPPORTED;
    ++open_handle->products;
    if (type_c == 1 && compute == 70)
        return multiply(alpha, beta, op_a, op_b, m, n, k, static_cast<const double*>(A), lda,
                        static_cast<const double*>(B), ldb, static_cast<double*>(C), ldc,
                        [](double x) { return x; });
    if (bfloat16 && compute == 68)
        return multiply(alpha, beta, op_a, op_b, m, n, k, static_cast<const std::uint16_t*>(A), lda,
                        static_cast<const std::uint16_t*>(B), ldb, static_cast<float*>(C), ldc,
                        of_bfloat16);
    const int dropped = compute == 68 ? 0 : compute == 77 ? 13 : compute == 75 ? 16 : -1;
    if (type_c != 0 || bfloat16 || dropped < 0) return NOT_SUPPORTED;
    return multiply(alpha, beta, op_a, op_b, m, n, k, static_cast<const float*>(A), lda,
                    static_cast<const float*>(B), ldb, static_cast<float*>(C), ldc,
                    [=](float x) { return dropped ? rounded(x, dropped) : x; });
}

void* stand_in_stream() { return open_handle->stream; }
long stand_in_products() { return open_handle->products; }
int stand_in_is_open() { return open_handle != nullptr; }
}
