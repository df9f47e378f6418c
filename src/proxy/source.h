// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "api/sink.h"
#include "base/result.h"
#include "config/config.h"
#include "event/loop.h"
#include "manifest/manifest_source.h"

namespace fairlead::proxy {

/// Where objects come from, running until destroyed.
class Source {
 public:
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  virtual ~Source() = default;
  /// What is wrong at present, a line each.
  [[nodiscard]] virtual std::vector<std::string> problems() const = 0;
};

[[nodiscard]] manifest::ManifestOptions manifest_options(const config::Config& config);

/// The source that the configuration names: a manifest folder or an API server. Delivers to `sink`
/// from the loop; `sink` outlives it.
[[nodiscard]] Result<std::unique_ptr<Source>> open_source(event::Loop& loop,
                                                          const config::Config& config,
                                                          api::Sink& sink);

}  // namespace fairlead::proxy
