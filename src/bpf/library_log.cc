// SPDX-License-Identifier: Apache-2.0
#include "bpf/library_log.h"

#include <bpf/libbpf.h>
#include <cstdarg>
#include <cstdio>
#include <string_view>
#include <utility>

#include "base/text.h"

namespace fairlead::bpf {
namespace {

constexpr std::size_t kLines = 12;

// The library speaks to a callback without context.
thread_local std::vector<std::string>* listener = nullptr;

int keep(libbpf_print_level level, const char* format, std::va_list arguments) {
  if (level != LIBBPF_WARN || listener == nullptr) {
    return 0;
  }
  // A verifier's log comes as one message and can have megabytes; its end says what was wrong.
  std::va_list again;
  va_copy(again, arguments);
  const int length = std::vsnprintf(nullptr, 0, format, again);
  va_end(again);
  if (length <= 0) {
    return 0;
  }
  std::string message(static_cast<std::size_t>(length), '\0');
  (void)std::vsnprintf(message.data(), message.size() + 1, format,
                       arguments);  // the length is known
  std::vector<std::string> fresh;
  for (const std::string_view line : split(message, '\n')) {
    if (!trim(line).empty()) {
      fresh.emplace_back(trim(line));
    }
  }
  listener->insert(listener->end(), fresh.begin(), fresh.end());
  if (listener->size() > kLines) {
    listener->erase(listener->begin(),
                    listener->begin() + static_cast<std::ptrdiff_t>(listener->size() - kLines));
  }
  return 0;
}

}  // namespace

LibraryLog::LibraryLog() : outer_(std::exchange(listener, &lines_)) { libbpf_set_print(keep); }
LibraryLog::~LibraryLog() { listener = outer_; }

std::string LibraryLog::text() const { return join(lines_, " | "); }

}  // namespace fairlead::bpf
