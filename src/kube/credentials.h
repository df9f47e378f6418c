// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "event/loop.h"
#include "kube/kubeconfig.h"

namespace fairlead::kube {

/// The bearer token of each request: fixed, or from a file that is replaced every now and then
/// (a pod's token about hourly). A file that cannot be read or is empty leaves the last token.
class BearerToken {
 public:
  explicit BearerToken(const ApiServerConfig& config)
      : file_(config.token_file), token_(config.token) {}

  /// Reads the file when the last reading is older than 50 s or `expire` was called. Empty: none.
  [[nodiscard]] const Secret& current(event::TimePoint now);
  /// The server refused the token: the next request reads the file.
  void expire() { read_at_.reset(); }

 private:
  std::string file_;
  Secret token_;
  std::optional<event::TimePoint> read_at_;
  bool complained_ = false;
};

}  // namespace fairlead::kube
