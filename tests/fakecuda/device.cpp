// A CUDA device without CUDA: tensors on "cuda:0" whose operators are counted, checked as torch's CUDA wrappers check
// them, and then run by the CPU's kernels on the same memory.
//
// Every operator that reaches the dispatch key CUDA goes through one boxed fallback. A tensor of the device is seen by
// the CPU's kernel as an alias: another TensorImpl, with the key CPU, on the same bytes. What comes back new is given
// the key CUDA; what was written in place or resized is given back to the tensor that it came from.
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <frameobject.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

const c10::Device CPU(c10::DeviceType::CPU);
const c10::Device CUDA(c10::DeviceType::CUDA, 0);

// ------------------------------------------------------------------------------------------------- what is counted

class Ledger {
 public:
  std::atomic<long> launches{0}, waits{0}, bytes{0}, most_bytes{0};

  void launch() {
    launches++;
    if (!by_line) return;
    const auto where = line_of_the_package();
    std::lock_guard<std::mutex> hold(lock_);
    launch_lines[where]++;
  }

  void wait(const std::string& what) {
    waits++;
    const auto where = line_of_the_package() + "  " + what;
    std::lock_guard<std::mutex> hold(lock_);
    wait_lines[where]++;
  }

  void allocate(long size) {
    const long now = (bytes += size);
    for (long known = most_bytes; now > known && !most_bytes.compare_exchange_weak(known, now);) {}
  }

  void clear() {
    std::lock_guard<std::mutex> hold(lock_);
    launches = waits = 0;
    most_bytes = bytes.load();
    launch_lines.clear();
    wait_lines.clear();
  }

  // innermost frame of the package on the stack of Python, as file:line function
  std::string line_of_the_package() const {
    if (!Py_IsInitialized()) return "?";
    pybind11::gil_scoped_acquire gil;
    std::string found;
    for (PyFrameObject* frame = PyThreadState_GetFrame(PyThreadState_Get()); frame != nullptr;) {
      if (found.empty()) {
        PyCodeObject* code = PyFrame_GetCode(frame);
        const char* file = PyUnicode_AsUTF8(code->co_filename);
        const std::string path = file == nullptr ? "" : file;
        const auto place = path.rfind(package + "/");
        if (place != std::string::npos) {
          const char* function = PyUnicode_AsUTF8(code->co_name);
          found = path.substr(place + package.size() + 1) + ":" + std::to_string(PyFrame_GetLineNumber(frame)) + " " +
                  (function == nullptr ? "" : function);
        }
        Py_DECREF(code);
      }
      PyFrameObject* caller = PyFrame_GetBack(frame);
      Py_DECREF(frame);
      frame = caller;
    }
    return found.empty() ? "(backward)" : found;
  }

  std::string package = "ase_ldos";
  bool by_line = false;
  std::map<std::string, long> launch_lines, wait_lines;

 private:
  std::mutex lock_;
};

Ledger ledger;

[[noreturn]] void refuse(const std::string& reason) {
  TORCH_CHECK(false, reason, " (at ", ledger.line_of_the_package(), ")");
}

// --------------------------------------------------------------------------------------------------------- memory

// fresh memory reads as NaN or -1, so that what is never written shows
struct DeviceAllocator final : c10::Allocator {
  struct Piece {
    void* data;
    long size;
  };
  static void release(void* context) {
    auto* piece = static_cast<Piece*>(context);
    ledger.bytes -= piece->size;
    std::free(piece->data);
    delete piece;
  }
  c10::DataPtr allocate(size_t size) override {
    void* data = nullptr;
    if (size > 0) {
      TORCH_CHECK(posix_memalign(&data, 64, size) == 0, "CUDA out of memory");
      std::memset(data, 0xFF, size);
    }
    ledger.allocate(static_cast<long>(size));
    return {data, new Piece{data, static_cast<long>(size)}, &release, CUDA};
  }
  void copy_data(void* to, const void* from, std::size_t size) const override { default_copy_data(to, from, size); }
};

DeviceAllocator allocator;

// another storage on the same bytes, which keeps the first one alive
c10::Storage share(const c10::Storage& storage, c10::Device device, bool counts) {
  struct Owner {
    c10::Storage storage;
    long size;
  };
  const long size = counts ? static_cast<long>(storage.nbytes()) : 0;
  ledger.allocate(size);
  auto release = [](void* context) {
    auto* owner = static_cast<Owner*>(context);
    ledger.bytes -= owner->size;
    delete owner;
  };
  c10::DataPtr data(storage.mutable_data(), new Owner{storage, size}, release, device);
  c10::Allocator* resizing = device.is_cuda() ? static_cast<c10::Allocator*>(&allocator) : c10::GetCPUAllocator();
  return {c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data), resizing, /*resizable=*/true};
}

at::Tensor with_storage(const at::Tensor& like, c10::Storage storage, c10::DispatchKey key) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  if (like.is_conj()) made._set_conj(true);
  if (like.is_neg()) made._set_neg(true);
  return made;
}

at::Tensor given_to_device(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.is_cuda()) return tensor;
  return with_storage(tensor, share(tensor.storage(), CUDA, true), c10::DispatchKey::CUDA);
}

// aliases of the arguments of one call; tensors that share their memory go on sharing it
class Aliases {
 public:
  at::Tensor of(const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.is_cuda()) return tensor;
    auto* key = tensor.storage().unsafeGetStorageImpl();
    auto known = storages_.find(key);
    if (known == storages_.end()) known = storages_.emplace(key, share(tensor.storage(), CPU, false)).first;
    return with_storage(tensor, known->second, c10::DispatchKey::CPU);
  }

 private:
  std::unordered_map<void*, c10::Storage> storages_;
};

// ------------------------------------------------------------------------------------------------------ operators

std::set<std::string> unchecked;  // operators in which torch lets a number on the CPU pass

// those whose result the host must know before it can go on
const std::set<std::string> WAITING = {
    "_local_scalar_dense", "nonzero",           "masked_select",      "_unique2",         "equal",
    "unique_dim",          "unique_consecutive", "bincount",           "_linalg_eigh",     "linalg_lstsq",
    "linalg_inv_ex",       "_linalg_solve_ex",   "repeat_interleave.Tensor", "_linalg_svd"};
const std::set<std::string> PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "vdot"};
const std::set<std::string> INDEXING = {"index", "_index_put_impl_", "index_put_", "index_put", "_unsafe_index"};

class Call {
 public:
  Call(const c10::OperatorHandle& op, torch::jit::Stack* stack)
      : op_(op), schema_(op.schema()), stack_(stack), first_(stack->size() - schema_.arguments().size()) {
    base_ = schema_.operator_name().name.substr(std::strlen("aten::"));
    const auto& overload = schema_.operator_name().overload_name;
    full_ = overload.empty() ? base_ : base_ + "." + overload;
    given_.assign(stack_->begin() + static_cast<long>(first_), stack_->end());
  }

  void run() {
    ledger.launch();
    if (WAITING.count(base_) || WAITING.count(full_)) ledger.wait(base_);
    for (size_t i = 0; i < given_.size(); i++) (*stack_)[first_ + i] = translated(given_[i], schema_.arguments()[i]);
    {
      at::AutoDispatchBelowADInplaceOrView below;
      op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack_);
    }
    const auto start = stack_->size() - schema_.returns().size();
    for (size_t i = 0; i < schema_.returns().size(); i++) {
      auto& value = (*stack_)[start + i];
      value = returned(value, schema_.returns()[i]);
    }
  }

 private:
  c10::IValue translated(const c10::IValue& value, const c10::Argument& argument) {
    const bool is_index = INDEXING.count(base_) && argument.name() == "indices";
    auto alias = [&](const at::Tensor& tensor) {
      check(tensor, is_index);
      return aliases_.of(tensor);
    };
    if (value.isTensor()) return alias(value.toTensor());
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(alias(tensor));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const auto& tensor : value.toOptionalTensorVector()) {
        list.push_back(tensor.has_value() ? std::optional<at::Tensor>(alias(*tensor)) : std::nullopt);
      }
      return list;
    }
    if (value.isDevice()) return value.toDevice().is_cuda() ? c10::IValue(CPU) : value;
    if (value.isGenerator() && !value.toGenerator().device().is_cuda()) {
      refuse("Expected a 'cuda' device type for generator but found 'cpu' in " + base_);
    }
    if (base_ == "linalg_lstsq" && argument.name() == "driver") {
      if (!value.isNone() && value.toStringRef() != "gels") {
        refuse("torch.linalg.lstsq: `driver` other than `gels` is not supported on CUDA");
      }
      return std::string("gels");
    }
    return value;
  }

  void check(const at::Tensor& tensor, bool is_index) const {
    if (!tensor.defined()) return;
    if (tensor.is_cuda()) {
      if (PRODUCTS.count(base_) && tensor.dim() > 0 && c10::isIntegralType(tensor.scalar_type(), true)) {
        refuse("\"" + base_ + "\" is not implemented for integers on CUDA");
      }
      return;
    }
    const bool may_be_number = unchecked.count(full_) || unchecked.count(base_);
    if (!is_index && (tensor.dim() > 0 || !may_be_number)) {
      refuse("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (" +
             full_ + " of a CPU tensor of shape " + c10::str(tensor.sizes()) + ")");
    }
  }

  c10::IValue returned(const c10::IValue& value, const c10::Argument& result) {
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(given_to_device(tensor));
      return list;
    }
    if (!value.isTensor()) return value;
    const auto* alias = result.alias_info();
    if (alias == nullptr) return given_to_device(value.toTensor());
    if (!alias->isWrite()) refuse("the fake device has no kernel for the view " + full_);
    for (size_t i = 0; i < given_.size(); i++) {
      const auto* other = schema_.arguments()[i].alias_info();
      if (other != nullptr && other->isWrite() && other->beforeSets() == alias->beforeSets()) {
        take_over(given_[i].toTensor(), value.toTensor());
        return given_[i];
      }
    }
    refuse("the fake device does not know what " + full_ + " wrote to");
  }

  // an out= argument that was resized gets the memory and shape of its alias
  static void take_over(const at::Tensor& original, const at::Tensor& alias) {
    if (!original.defined() || !original.is_cuda()) return;
    auto* impl = original.unsafeGetTensorImpl();
    if (alias.storage().nbytes() > original.storage().nbytes()) {
      impl->set_storage_keep_dtype(share(alias.storage(), CUDA, true));
    }
    if (alias.sizes() != original.sizes() || alias.strides() != original.strides()) {
      impl->set_sizes_and_strides(alias.sizes(), alias.strides(), alias.storage_offset());
    }
  }

  const c10::OperatorHandle& op_;
  const c10::FunctionSchema& schema_;
  torch::jit::Stack* stack_;
  size_t first_;
  std::string base_, full_;
  std::vector<c10::IValue> given_;
  Aliases aliases_;
};

void run_counted(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) { Call(op, stack).run(); }

// ------------------------------------------------------- what makes tensors or views has no kernel to be borrowed

using Sizes = c10::SymIntArrayRef;
template <class T>
using Maybe = std::optional<T>;

at::Tensor empty(Sizes size, Maybe<at::ScalarType> dtype, Maybe<at::Layout>, Maybe<c10::Device>, Maybe<bool>,
                 Maybe<at::MemoryFormat> format) {
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   dtype.value_or(c10::get_default_dtype_as_scalartype()), format);
}

at::Tensor empty_strided(Sizes size, Sizes stride, Maybe<at::ScalarType> dtype, Maybe<at::Layout>, Maybe<c10::Device>,
                         Maybe<bool>) {
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &allocator,
      c10::DispatchKeySet(c10::DispatchKey::CUDA), dtype.value_or(c10::get_default_dtype_as_scalartype()));
}

at::Tensor zeros(Sizes size, Maybe<at::ScalarType> dtype, Maybe<at::Layout> layout, Maybe<c10::Device> device,
                 Maybe<bool> pinned) {
  auto made = empty(size, dtype, layout, device, pinned, std::nullopt);
  if (made.numel() > 0) std::memset(made.data_ptr(), 0, made.numel() * made.element_size());
  return made;
}

at::Tensor& copy(at::Tensor& to, const at::Tensor& from, bool) {
  if (to.is_cuda() == from.is_cuda()) {
    ledger.launch();
  } else {
    ledger.wait(to.is_cuda() ? "copy to the device" : "copy from the device");
  }
  Aliases aliases;
  at::AutoDispatchBelowADInplaceOrView below;
  aliases.of(to).copy_(aliases.of(from));
  return to;
}

at::Tensor view(const at::Tensor& tensor, Sizes size) {
  return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor as_strided(const at::Tensor& tensor, Sizes size, Sizes stride, Maybe<c10::SymInt> offset) {
  const auto place = offset.has_value() ? Maybe<int64_t>(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), place);
}

at::Tensor reshape_alias(const at::Tensor& tensor, Sizes size, Sizes stride) {
  return at::native::_reshape_alias(tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

const at::Tensor& resize(const at::Tensor& tensor, Sizes size, Maybe<at::MemoryFormat> format) {
  return at::native::resize_(tensor, C10_AS_INTARRAYREF_SLOW(size), format);
}

at::Tensor& set_storage(at::Tensor& tensor, at::Storage storage, c10::SymInt offset, Sizes size, Sizes stride) {
  return at::native::set_storage_cpu_(tensor, std::move(storage), offset.expect_int(), C10_AS_INTARRAYREF_SLOW(size),
                                      C10_AS_INTARRAYREF_SLOW(stride));
}

}  // namespace

TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_counted>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", TORCH_FN(empty));
  library.impl("empty_strided", TORCH_FN(empty_strided));
  library.impl("_efficientzerotensor", TORCH_FN(zeros));
  library.impl("copy_", TORCH_FN(copy));
  library.impl("view", TORCH_FN(view));
  library.impl("as_strided", TORCH_FN(as_strided));
  library.impl("_reshape_alias", TORCH_FN(reshape_alias));
  library.impl("view_as_real", TORCH_FN(at::native::view_as_real));
  library.impl("view_as_complex", TORCH_FN(at::native::view_as_complex));
  library.impl("unfold", TORCH_FN(at::native::unfold));
  library.impl("resize_", TORCH_FN(resize));
  library.impl("set_.source_Storage_storage_offset", TORCH_FN(set_storage));
}

PYBIND11_MODULE(_fakecuda, module) {
  module.def("setup", [](const std::set<std::string>& names) {
    unchecked = names;
    c10::SetAllocator(c10::DeviceType::CUDA, &allocator, 1);
  });
  module.def("reset", [](bool by_line) {
    ledger.clear();
    ledger.by_line = by_line;
  }, pybind11::arg("by_line") = false);
  module.def("launches", [] { return ledger.launches.load(); });
  module.def("waits", [] { return ledger.waits.load(); });
  module.def("peak_bytes", [] { return ledger.most_bytes.load(); });
  module.def("launch_lines", [] { return ledger.launch_lines; });
  module.def("wait_lines", [] { return ledger.wait_lines; });
}
