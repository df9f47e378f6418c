// SPDX-License-Identifier: Apache-2.0
#include "kube/credentials.h"

#include <algorithm>
#include <chrono>

#include "base/log.h"
#include "base/text.h"

namespace fairlead::kube {
namespace {

constexpr event::Duration kTokenAge = std::chrono::seconds(50);

/// What would break out of the header line must never be sent.
bool sendable(std::string_view token) {
  return !token.empty() &&
         std::ranges::none_of(token, [](char c) { return c <= ' ' || c == 0x7f; });
}

}  // namespace

const Secret& BearerToken::current(event::TimePoint now) {
  if (file_.empty() || (read_at_ && now - *read_at_ < kTokenAge)) {
    return token_;
  }
  read_at_ = now;
  const Result<std::string> content = read_small_file(file_);
  const std::string_view token = content ? trim(*content) : std::string_view();
  if (sendable(token)) {
    token_ = Secret(std::string(token));
    complained_ = false;
  } else if (!complained_) {
    complained_ = true;
    log::error("token file not usable, going on with the last token",
               {{"file", file_},
                {"error", content ? std::string("must hold one token, without blanks")
                                  : content.error().text()}});
  }
  return token_;
}

}  // namespace fairlead::kube
