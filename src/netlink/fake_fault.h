// SPDX-License-Identifier: Apache-2.0
// What the fakes of this folder share: call counters and injected faults. For tests only.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace fairlead::netlink {

/// A failure the fake pretends. `kAfter`: the change is made and the caller is told it failed, as
/// when an answer is lost.
struct Fault {
  enum class When { kBefore, kAfter };
  Error error;
  When when = When::kBefore;
};

/// Asked once per call with the method's name and the object's text (empty if it has none), and
/// for batches once per operation. nullopt: no fault.
using FaultHook =
    std::function<std::optional<Fault>(std::string_view call, const std::string& object)>;

class FakeBase {
 public:
  // The hook may hold `this`.
  FakeBase(const FakeBase&) = delete;
  FakeBase& operator=(const FakeBase&) = delete;

  void set_fault(FaultHook hook) { hook_ = std::move(hook); }
  /// Fails the next call or operation for which `call` fits and whose object contains `object`.
  void fail_next(std::string call, std::string object, Fault fault) {
    hook_ = [this, call = std::move(call), object = std::move(object), fault = std::move(fault)](
                std::string_view seen_call,
                const std::string& seen_object) -> std::optional<Fault> {
      if (seen_call != call || seen_object.find(object) == std::string::npos) {
        return std::nullopt;
      }
      hook_ = nullptr;  // `ask` runs a copy, so this closure is still whole
      return fault;
    };
  }

  /// How often the method was called; for batches "apply" counts calls, "apply.op" operations.
  [[nodiscard]] std::uint64_t calls(std::string_view name) const {
    const auto found = calls_.find(name);
    return found == calls_.end() ? 0 : found->second;
  }
  [[nodiscard]] std::uint64_t total_calls() const {
    std::uint64_t sum = 0;
    for (const auto& [name, count] : calls_) {
      sum += name.ends_with(".op") ? 0 : count;
    }
    return sum;
  }
  void reset_calls() { calls_.clear(); }

 protected:
  FakeBase() = default;
  ~FakeBase() = default;

  void count(std::string_view name, std::uint64_t by = 1) { calls_[std::string(name)] += by; }
  [[nodiscard]] std::optional<Fault> ask(std::string_view call, const std::string& object) {
    return hook_ ? std::function(hook_)(call, object) : std::nullopt;
  }
  /// Runs `effect` (returning a Result) unless a fault comes before it; a fault after it replaces
  /// its success.
  template <typename Effect>
  auto with_faults(std::string_view call, const std::string& object, Effect effect)
      -> decltype(effect()) {
    std::optional<Fault> fault = ask(call, object);
    if (fault && fault->when == Fault::When::kBefore) {
      return fail(std::move(fault->error));
    }
    auto result = effect();
    if (fault && result) {
      return fail(std::move(fault->error));
    }
    return result;
  }

 private:
  FaultHook hook_;
  std::map<std::string, std::uint64_t, std::less<>> calls_;
};

}  // namespace fairlead::netlink
