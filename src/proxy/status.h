// SPDX-License-Identifier: Apache-2.0
// How it stands, for people and machines. Control thread.
#pragma once

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "config/config.h"
#include "dataplane/data_plane.h"
#include "event/loop.h"

namespace fairlead::proxy {

class StatusServer {
 public:
  StatusServer(event::Loop& loop, const config::Config& config) : loop_(loop), config_(config) {}

  [[nodiscard]] Status open() { return {}; }
  /// A change is on its way to the plane.
  void planned(std::uint64_t generation) { planned_ = generation; }
  void applied(const dataplane::Summary& summary) { summary_ = summary; }

 private:
  event::Loop& loop_;
  const config::Config& config_;
  std::uint64_t planned_ = 0;
  dataplane::Summary summary_;
};

}  // namespace fairlead::proxy
