// For the kernels that CuPy writes: what NVRTC declares by itself, and CuPy's own arrays.
#define __CUDACC_RTC__
#define NULL nullptr
#define assert(condition)
#define memset __builtin_memset
#define memcpy __builtin_memcpy

namespace {
using size_t = decltype(sizeof 0);
using ptrdiff_t = decltype((char*)nullptr - (char*)nullptr);
template <class T> class complex;
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
}

#include <initializer_list>
#include <cupy/carray.cuh>
