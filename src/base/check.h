// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace fairlead {
/// Prints `file:line: broken invariant: what` and aborts. For bugs, never for input.
[[noreturn]] void check_failed(const char* file, int line, const char* what);
}  // namespace fairlead

// A macro only because the text of the condition and its place belong into the message.
#define FAIRLEAD_CHECK(condition)         \
  (static_cast<bool>(condition) ? void(0) \
                                : ::fairlead::check_failed(__FILE__, __LINE__, #condition))
