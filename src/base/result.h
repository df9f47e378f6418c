// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <tl/expected.hpp>

namespace fairlead {

/// What the caller can do about an error; the text says what happened.
enum class ErrorKind {
  kInvalidInput,   // the user wrote something wrong
  kNotFound,       // already gone (ENOENT, ESRCH, ENODEV, EADDRNOTAVAIL)
  kAlreadyExists,  // already there (EEXIST)
  kPermission,     // EPERM, EACCES, HTTP 401/403
  kUnavailable,    // the environment lacks something, or a peer is away; try later
  kTimeout,        // no answer within the deadline
  kOverflow,       // answers were lost (ENOBUFS); read the state again
  kSystem,         // any other errno
};

/// An error and the chain of what we were doing, outermost first when printed:
/// `add real server 10.0.0.7:80 to 10.96.0.1:80/TCP: no such scheduler "wrx" (ENOENT)`.
class Error {
 public:
  Error(ErrorKind kind, std::string message, int errno_value = 0)
      : kind_(kind), errno_(errno_value), text_(std::move(message)) {}

  /// From errno: the kind follows from it, the text is `what: strerror (ENAME)`.
  [[nodiscard]] static Error from_errno(int errno_value, std::string_view what);

  /// Adds the object or step at hand in front of the text.
  [[nodiscard]] Error in(std::string_view context) && {
    text_ = std::string(context) + ": " + text_;
    return std::move(*this);
  }
  [[nodiscard]] Error in(std::string_view context) const& { return Error(*this).in(context); }

  [[nodiscard]] ErrorKind kind() const { return kind_; }
  [[nodiscard]] int errno_value() const { return errno_; }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  ErrorKind kind_;
  int errno_;
  std::string text_;
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

[[nodiscard]] inline tl::unexpected<Error> fail(Error error) {
  return tl::unexpected<Error>(std::move(error));
}
[[nodiscard]] inline tl::unexpected<Error> fail(ErrorKind kind, std::string message) {
  return tl::unexpected<Error>(Error(kind, std::move(message)));
}
[[nodiscard]] inline tl::unexpected<Error> fail_errno(int errno_value, std::string_view what) {
  return tl::unexpected<Error>(Error::from_errno(errno_value, what));
}

/// Symbolic name such as "ENOENT"; "errno 12345" for unknown numbers.
[[nodiscard]] std::string errno_name(int errno_value);

}  // namespace fairlead
