// CUDA's runtime and driver on the CPU: what CuPy calls of them, with NVIDIA's own declarations.
//
// Memory of the device is memory of the process, filled with NaN. A kernel is a function of a
// library that launcher.py has compiled; in place of its machine code, a module is that library's
// path.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <string>

#include "queues.hpp"

#undef cudaGetDeviceProperties

namespace {

constexpr std::size_t MEMORY = std::size_t(4) << 30;
// Each has memory that the other can't reach. Streams are those of both.
constexpr int DEVICES = 2;
constexpr int SHARED = 48 << 10, SHARED_OPTIN = 227 << 10;
constexpr unsigned THREADS = 1024, GRID_Y_AND_Z = 65535;

std::map<const char*, std::size_t> device_memory, pinned_memory;
std::map<const char*, int> owners;  // which device has such memory
std::size_t memory_left = MEMORY;
thread_local int device = 0;  // that this thread uses
std::string failure;  // of a kernel; nothing works any more then

cudaError_t answer(int status) {
    return static_cast<cudaError_t>(failure.empty() ? status : cudaErrorLaunchFailure);
}

bool is_in(const std::map<const char*, std::size_t>& memory, const void* address) {
    const char* const byte = static_cast<const char*>(address);
    const auto next = memory.upper_bound(byte);
    return next != memory.begin() && byte < std::prev(next)->first + std::prev(next)->second;
}

int owner_of(const void* address) {
    const auto next = owners.upper_bound(static_cast<const char*>(address));
    return next == owners.begin() ? 0 : std::prev(next)->second;
}

cudaError_t allocate(std::map<const char*, std::size_t>& memory, void** out, std::size_t bytes) {
    char* const made = static_cast<char*>(std::aligned_alloc(512, (bytes + 511) / 512 * 512));
    if (!made) return cudaErrorMemoryAllocation;
    std::memset(made, 0xFF, bytes);
    memory[made] = bytes;
    *out = made;
    return cudaSuccess;
}

bool is_reached(Mark mark) { return !mark.stream || mark.stream->done >= mark.asked; }

cudaError_t release(std::map<const char*, std::size_t>& memory, void* address) {
    finish_all();
    if (!address) return cudaSuccess;
    if (!memory.erase(static_cast<char*>(address))) return answer(cudaErrorInvalidValue);
    std::free(address);
    return cudaSuccess;
}

}  // namespace

// What has been asked for so far; see `Counts` in simulated_gpu.py.
struct Counts {
    long long reads, waits, launches, graphs;
};
extern "C" {
__attribute__((visibility("default"))) Counts simulated_counts;
}

EXPORT void simulate(int chosen) {
    const Lock lock(mutex);
    finish_all();
    failure.clear();
    reachable = [](const void* address) {
        return is_in(device_memory, address) || is_in(pinned_memory, address);
    };
    order = static_cast<Order>(chosen);
    random_state = 0;
}

EXPORT int simulate_nothing(const char* name) {
    std::fprintf(stderr, "the simulated GPU has no %s\n", name);
    return NOT_SUPPORTED;
}

// ---- the device --------------------------------------------------------------------------------

EXPORT cudaError_t cudaDriverGetVersion(int* version) { return *version = 13020, cudaSuccess; }
EXPORT cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13020, cudaSuccess; }
EXPORT cudaError_t cudaGetDeviceCount(int* count) { return *count = DEVICES, cudaSuccess; }
EXPORT cudaError_t cudaGetDevice(int* used) { return *used = device, cudaSuccess; }
EXPORT cudaError_t cudaSetDevice(int used) {
    if (used < 0 || used >= DEVICES) return cudaErrorInvalidDevice;
    return device = used, cudaSuccess;
}

EXPORT cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    *properties = {};
    std::strcpy(properties->name, "simulated GPU");
    properties->totalGlobalMem = MEMORY;
    properties->major = 9;
    properties->warpSize = 32;
    return cudaSuccess;
}

EXPORT cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
        case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
        case cudaDevAttrMultiProcessorCount: *value = 132; break;
        case cudaDevAttrWarpSize: *value = 32; break;
        case cudaDevAttrMaxThreadsPerBlock: *value = THREADS; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = SHARED; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = SHARED_OPTIN; break;
        default: *value = 0;
    }
    return cudaSuccess;
}

EXPORT cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int) {
    return std::snprintf(text, size, "0000:00:00.0"), cudaSuccess;
}
EXPORT cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, cudaSuccess; }
EXPORT cudaError_t cudaDeviceGetLimit(size_t* limit, cudaLimit) { return *limit = 0, cudaSuccess; }
EXPORT cudaError_t cudaGetLastError() { return answer(cudaSuccess); }
EXPORT cudaError_t cudaPeekAtLastError() { return answer(cudaSuccess); }
EXPORT const char* cudaGetErrorName(cudaError_t error) {
    static thread_local std::string text;
    return (text = "cudaError_t " + std::to_string(error)).c_str();
}
EXPORT const char* cudaGetErrorString(cudaError_t) {
    return failure.empty() ? "refused by the simulated GPU" : failure.c_str();
}

// ---- memory ------------------------------------------------------------------------------------

EXPORT cudaError_t cudaMemGetInfo(size_t* left, size_t* total) {
    return *left = memory_left, *total = MEMORY, cudaSuccess;
}

EXPORT cudaError_t cudaMalloc(void** address, size_t bytes) {
    const Lock lock(mutex);
    if (const int refused = may_wait()) return answer(refused);
    if (bytes > memory_left) return cudaErrorMemoryAllocation;
    const cudaError_t status = allocate(device_memory, address, bytes);
    if (!status) memory_left -= bytes, owners[static_cast<char*>(*address)] = device;
    return status;
}

EXPORT cudaError_t cudaFree(void* address) {
    const Lock lock(mutex);
    if (const int refused = may_wait()) return answer(refused);
    const auto found = device_memory.find(static_cast<char*>(address));
    if (found != device_memory.end()) memory_left += found->second, owners.erase(found->first);
    return release(device_memory, address);
}

EXPORT cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) {
    const Lock lock(mutex);
    if (const int refused = may_wait()) return answer(refused);
    return allocate(pinned_memory, address, bytes);
}

EXPORT cudaError_t cudaFreeHost(void* address) {
    const Lock lock(mutex);
    return release(pinned_memory, address);
}

EXPORT cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* address) {
    const Lock lock(mutex);
    *found = {};
    if (is_in(device_memory, address)) {
        found->type = cudaMemoryTypeDevice;
        found->device = owner_of(address);
        found->devicePointer = const_cast<void*>(address);
    } else if (is_in(pinned_memory, address)) {
        found->type = cudaMemoryTypeHost;
        found->hostPointer = const_cast<void*>(address);
    } else {
        found->type = cudaMemoryTypeUnregistered;
    }
    return cudaSuccess;
}

EXPORT cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t handle) {
    const Lock lock(mutex);
    Stream* const stream = stream_of(handle);
    const bool to_device = is_in(device_memory, to), from_device = is_in(device_memory, from);
    const cudaMemcpyKind is = to_device ? from_device ? cudaMemcpyDeviceToDevice
                                                      : cudaMemcpyHostToDevice
                              : from_device ? cudaMemcpyDeviceToHost
                                            : cudaMemcpyHostToHost;
    if (kind != cudaMemcpyDefault && kind != is) return answer(cudaErrorInvalidValue);
    simulated_counts.reads += is == cudaMemcpyDeviceToHost;
    // Memory that is not page-locked is read before the call returns, and written, too. "The driver
    // may synchronize with the stream" before it reads.
    if (!from_device && !is_in(pinned_memory, from)) {
        if (stream->captured) return stream->spoilt = true, answer(UNCAPTURABLE);
        ++simulated_counts.waits;
        const char* const begin = static_cast<const char*>(from);
        const auto copy = std::make_shared<std::vector<char>>(begin, begin + bytes);
        return answer(ask(stream, [=] { std::memcpy(to, copy->data(), bytes); }));
    }
    const bool waits = !to_device && !is_in(pinned_memory, to);
    if (waits && stream->captured) return stream->spoilt = true, answer(UNCAPTURABLE);
    const int refused = ask(stream, [=] { std::memcpy(to, from, bytes); });
    if (!refused && waits) finish(stream);
    return answer(refused);
}

EXPORT cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    const Lock lock(mutex);
    if (const int refused = may_wait()) return answer(refused);
    const cudaError_t status = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    if (!status && !(is_in(device_memory, to) && is_in(device_memory, from))) finish(&null_stream);
    return answer(status);
}

EXPORT cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
    const Lock lock(mutex);
    if (!is_in(device_memory, to)) return answer(cudaErrorInvalidValue);
    return answer(ask(stream_of(stream), [=] { std::memset(to, value, bytes); }));
}

// ---- streams and events ------------------------------------------------------------------------

EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned flags, int) {
    const Lock lock(mutex);
    auto* const stream = new Stream;
    stream->blocking = !(flags & cudaStreamNonBlocking);
    streams.insert(stream);
    *handle = reinterpret_cast<cudaStream_t>(stream);
    return cudaSuccess;
}

EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) {
    return cudaStreamCreateWithPriority(handle, flags, 0);
}

EXPORT cudaError_t cudaStreamCreate(cudaStream_t* handle) {
    return cudaStreamCreateWithPriority(handle, 0, 0);
}

// What it was asked for is done all the same, and no other stream gets its address.
EXPORT cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }

EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    const Lock lock(mutex);
    ++simulated_counts.waits;
    Stream* const stream = stream_of(handle);
    if (stream->captured) return stream->spoilt = true, answer(UNCAPTURABLE);
    if (const int refused = ask(stream, [] {})) return answer(refused);
    finish(stream);
    return answer(OK);
}

EXPORT cudaError_t cudaDeviceSynchronize() {
    const Lock lock(mutex);
    ++simulated_counts.waits;
    if (const int refused = wait_for_all()) return answer(refused);
    finish_all();
    return answer(OK);
}

EXPORT cudaError_t cudaStreamQuery(cudaStream_t stream) {
    const Lock lock(mutex);
    Stream* const asked = stream_of(stream);
    if (asked->captured) return asked->spoilt = true, answer(UNCAPTURABLE);
    const bool done = asked->queue.empty();
    go_on(asked);
    return answer(done ? cudaSuccess : cudaErrorNotReady);
}

EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    return *event = reinterpret_cast<cudaEvent_t>(new Mark{}), cudaSuccess;
}

EXPORT cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

EXPORT cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return delete reinterpret_cast<Mark*>(event), cudaSuccess;
}

EXPORT cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
    const Lock lock(mutex);
    Stream* const stream = stream_of(handle);
    if (stream->captured) return answer(simulate_nothing("event in a graph"));
    const int refused = ask(stream, [] {});
    *reinterpret_cast<Mark*>(event) = {stream, stream->asked};
    return answer(refused);
}

EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const Lock lock(mutex);
    ++simulated_counts.waits;
    reach(*reinterpret_cast<Mark*>(event));
    return answer(OK);
}

EXPORT cudaError_t cudaEventQuery(cudaEvent_t event) {
    const Lock lock(mutex);
    const Mark mark = *reinterpret_cast<Mark*>(event);
    const bool done = is_reached(mark);
    if (!done) go_on(mark.stream);
    return answer(done ? cudaSuccess : cudaErrorNotReady);
}

EXPORT cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t one, cudaEvent_t other) {
    const Lock lock(mutex);
    *milliseconds = 1;  // nothing here says how fast a GPU is
    for (const cudaEvent_t event : {one, other}) {
        const Mark mark = *reinterpret_cast<Mark*>(event);
        if (!mark.stream) return answer(cudaErrorInvalidResourceHandle);
        if (!is_reached(mark)) return answer(cudaErrorNotReady);
    }
    return answer(OK);
}

EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
    const Lock lock(mutex);
    Stream* const stream = stream_of(handle);
    if (stream->captured) return answer(simulate_nothing("event in a graph"));
    stream->after.push_back(*reinterpret_cast<Mark*>(event));
    return answer(ask(stream, [] {}));
}

// ---- graphs ------------------------------------------------------------------------------------

EXPORT cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
    const Lock lock(mutex);
    Stream* const stream = stream_of(handle);
    if (stream == &null_stream) return answer(UNCAPTURABLE);
    if (stream->captured) return answer(cudaErrorIllegalState);
    stream->captured = new Graph;
    stream->mode = static_cast<Mode>(mode);
    stream->thread = std::this_thread::get_id();
    stream->spoilt = false;
    return cudaSuccess;
}

EXPORT cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
    const Lock lock(mutex);
    Stream* const stream = stream_of(handle);
    std::unique_ptr<Graph> captured(std::exchange(stream->captured, nullptr));
    if (!captured) return answer(cudaErrorIllegalState);
    if (stream->spoilt) return *graph = nullptr, answer(SPOILT);
    *graph = reinterpret_cast<cudaGraph_t>(captured.release());
    return cudaSuccess;
}

EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
    const Lock lock(mutex);
    const Stream* const stream = stream_of(handle);
    *status = !stream->captured ? cudaStreamCaptureStatusNone
              : stream->spoilt  ? cudaStreamCaptureStatusInvalidated
                                : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

EXPORT cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph,
                                        unsigned long long) {
    *ready = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
    return cudaSuccess;
}

EXPORT cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return delete reinterpret_cast<Graph*>(graph), cudaSuccess;
}

EXPORT cudaError_t cudaGraphExecDestroy(cudaGraphExec_t ready) {
    const Lock lock(mutex);
    finish_all();
    return delete reinterpret_cast<Graph*>(ready), cudaSuccess;
}

EXPORT cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }

EXPORT cudaError_t cudaGraphLaunch(cudaGraphExec_t ready, cudaStream_t stream) {
    const Lock lock(mutex);
    ++simulated_counts.graphs;
    const auto* const graph = reinterpret_cast<Graph*>(ready);
    return answer(ask(stream_of(stream), [=] {
        for (const Work& work : *graph) work();
    }));
}

// ---- kernels -----------------------------------------------------------------------------------

namespace {

struct Kernel {
    std::string name;
    // As cuda_shim.hpp defines them.
    const char* (*run)(unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                       const unsigned*, unsigned long long, const void* const*);
    const int* sizes;
    const char* signature;
    int shared_limit = SHARED;
};

std::map<std::pair<CUmodule, std::string>, Kernel> kernels;

// Whether an argument is an address that a GPU can't reach. `code` is its parameter's.
bool is_elsewhere(const char* code, const void* argument, int on) {
    const void* const address = *static_cast<const void* const*>(argument);
    if (*code != '*' || !address) return false;
    return !reachable(address) || (is_in(device_memory, address) && owner_of(address) != on);
}

void run(const Kernel& kernel, int on, dim3 grid, dim3 block, unsigned shared,
         const std::vector<std::string>& arguments) {
    if (!failure.empty()) return;
    std::vector<const void*> addresses;
    const char* code = kernel.signature;
    for (const std::string& argument : arguments) {
        if (is_elsewhere(code, argument.data(), on))
            failure = "kernel " + kernel.name + " is given memory that a GPU can't reach";
        addresses.push_back(argument.data());
        code = std::strchr(code, ' ') + 1;
    }
    if (!failure.empty()) return;
    std::vector<unsigned> blocks;
    if (order == Order::random) {
        for (unsigned i = 0; i < grid.x * grid.y * grid.z; ++i) {
            blocks.push_back(i);
            std::swap(blocks[i], blocks[random_below(i + 1)]);
        }
    }
    const char* const found =
        kernel.run(grid.x, grid.y, grid.z, block.x, block.y, block.z, shared,
                   blocks.empty() ? nullptr : blocks.data(), random_state, addresses.data());
    if (*found) failure = "kernel " + kernel.name + ", " + found;
}

}  // namespace

// NVRTC looks for a driver, and would ask it for more than is here.
EXPORT CUresult cuInit(unsigned) { return CUDA_ERROR_NO_DEVICE; }
EXPORT CUresult cuGetErrorName(CUresult, const char** text) { return *text = "", CUDA_SUCCESS; }
EXPORT CUresult cuGetErrorString(CUresult, const char** text) {
    return *text = cudaGetErrorString(cudaSuccess), CUDA_SUCCESS;
}
EXPORT CUresult cuCtxGetCurrent(CUcontext* context) { return *context = nullptr, CUDA_SUCCESS; }

EXPORT CUresult cuModuleLoadData(CUmodule* module, const void* path) {
    void* const library = dlopen(static_cast<const char*>(path), RTLD_NOW | RTLD_LOCAL);
    if (!library) std::fprintf(stderr, "%s\n", dlerror());
    *module = static_cast<CUmodule>(library);
    return library ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
}

EXPORT CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }

EXPORT CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    const Lock lock(mutex);
    Kernel& kernel = kernels[{module, name}];
    if (!kernel.run) {
        const auto find = [=](const char* what) {
            return dlsym(module, (std::string(what) + name).c_str());
        };
        if (!find("launch_")) return CUDA_ERROR_NOT_FOUND;
        kernel.name = name;
        kernel.run = reinterpret_cast<decltype(kernel.run)>(find("launch_"));
        kernel.sizes = reinterpret_cast<const int* (*)()>(find("sizes_"))();
        kernel.signature = reinterpret_cast<const char* (*)()>(find("signature_"))();
    }
    *function = reinterpret_cast<CUfunction>(&kernel);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
    const bool limit = attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    *value = limit ? reinterpret_cast<Kernel*>(function)->shared_limit : 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
    if (value < 0 || value > SHARED_OPTIN) return CUDA_ERROR_INVALID_VALUE;
    reinterpret_cast<Kernel*>(function)->shared_limit = value;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                               unsigned grid_z, unsigned block_x, unsigned block_y,
                               unsigned block_z, unsigned shared, CUstream stream, void** arguments,
                               void** packed) {
    const Lock lock(mutex);
    ++simulated_counts.launches;
    const Kernel& kernel = *reinterpret_cast<Kernel*>(function);
    const dim3 grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    const unsigned threads = block.x * block.y * block.z;
    if (!grid.x || !grid.y || !grid.z || grid.y > GRID_Y_AND_Z || grid.z > GRID_Y_AND_Z ||
        !threads || threads > THREADS || block.z > 64 || shared > unsigned(kernel.shared_limit) || packed)
        return CUDA_ERROR_INVALID_VALUE;
    std::vector<std::string> copies;
    for (const int* size = kernel.sizes; *size; ++size, ++arguments)
        copies.emplace_back(static_cast<char*>(*arguments), *size);
    const auto work = [=, &kernel, on = device] { run(kernel, on, grid, block, shared, copies); };
    return static_cast<CUresult>(answer(ask(stream_of(stream), work)));
}
