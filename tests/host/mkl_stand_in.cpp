// The part of MKL that the library calls, with the signatures of mkl_cblas.h and mkl_service.h, and
// of the OpenMP that MKL runs on.

#include <algorithm>
#include <cstddef>
#include <thread>
#include <vector>

namespace {
constexpr int ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112;
thread_local int threads = 0;
thread_local int number = 0, count = 1;
int wrong = 0, most_threads = 64, parallel_calls = 0;

template <class T>
void multiply(int layout, int A_is, int B_is, int m, int n, int k, T alpha, const T* A, int lda,
              const T* B, int ldb, T beta, T* C, int ldc) {
    const bool A_T = A_is == TRANS, B_T = B_is == TRANS;
    if (layout != ROW_MAJOR || (!A_T && A_is != NO_TRANS) || (!B_T && B_is != NO_TRANS) ||
        lda < (A_T ? m : k) || ldb < (B_T ? k : n) || ldc < n) {
        ++wrong;
        return;
    }
    for (long i = 0; i < m; ++i)
        for (long j = 0; j < n; ++j) {
            T sum = 0;
            for (long p = 0; p < k; ++p)
                sum += A[A_T ? p * lda + i : i * lda + p] * B[B_T ? j * ldb + p : p * ldb + j];
            T& out = C[i * ldc + j];
            out = beta ? alpha * sum + beta * out : alpha * sum;
        }
}
}  // namespace

extern "C" {
void cblas_sgemm(int layout, int A_is, int B_is, int m, int n, int k, float alpha, const float* A,
                 int lda, const float* B, int ldb, float beta, float* C, int ldc) {
    multiply(layout, A_is, B_is, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
}

void cblas_dgemm(int layout, int A_is, int B_is, int m, int n, int k, double alpha,
                 const double* A, int lda, const double* B, int ldb, double beta, double* C,
                 int ldc) {
    multiply(layout, A_is, B_is, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
}

int MKL_Set_Threading_Layer(int layer) { return layer; }
int MKL_Get_Max_Threads() { return threads ? threads : 3; }

int MKL_Set_Num_Threads_Local(int count) {
    const int before = threads;
    threads = count;
    return before;
}

int omp_get_thread_num() { return number; }
int omp_get_num_threads() { return count; }

void GOMP_parallel(void (*work)(void*), void* data, unsigned wanted, unsigned) {
    ++parallel_calls;
    const int given = std::min(int(wanted), most_threads);
    std::vector<std::thread> team;
    for (int i = given - 1; i >= 0; --i)  // the last part first
        team.emplace_back([=] { number = i, count = given, work(data); });
    for (auto& thread : team) thread.join();
}

void stand_in_limit_threads(int most) { most_threads = most; }
int stand_in_parallel_calls() { return parallel_calls; }
int stand_in_threads() { return threads; }
int stand_in_wrong_arguments() { return wrong; }
}
