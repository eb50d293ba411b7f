// What torch asks while it is imported: whether there is CUDA, how many devices, and a guard that switches between them.
// A library of its own, because it must be there before torch asks.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

const c10::Device THE_DEVICE(c10::DeviceType::CUDA, 0);
const c10::Stream THE_STREAM(c10::Stream::DEFAULT, THE_DEVICE);

class OneDeviceGuard final : public c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
 public:
  c10::Device getDevice() const override { return THE_DEVICE; }
  c10::Device exchangeDevice(c10::Device) const override { return THE_DEVICE; }
  c10::Stream getStream(c10::Device) const noexcept override { return THE_STREAM; }
  c10::Stream getNewStream(c10::Device, int) const override { return THE_STREAM; }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return THE_STREAM; }
  // everything has ended when a call returns
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

class OneDeviceHooks final : public at::CUDAHooksInterface {
 public:
  explicit OneDeviceHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void deviceSynchronize(c10::DeviceIndex) const override {}
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
};

c10::impl::DeviceGuardImplRegistrar registered(c10::DeviceType::CUDA, new OneDeviceGuard());

}  // namespace

namespace at {
using CUDAHooks = ::OneDeviceHooks;
REGISTER_CUDA_HOOKS(CUDAHooks);
}  // namespace at
