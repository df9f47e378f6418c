// SPDX-License-Identifier: Apache-2.0
#include "base/result.h"

#include <cerrno>
#include <cstring>

namespace fairlead {
namespace {

ErrorKind kind_of(int errno_value) {
  switch (errno_value) {
    case ENOENT:
    case ESRCH:
    case ENODEV:
    case ENXIO:
    case EADDRNOTAVAIL:
      return ErrorKind::kNotFound;
    case EEXIST:
      return ErrorKind::kAlreadyExists;
    case EPERM:
    case EACCES:
      return ErrorKind::kPermission;
    case ENOBUFS:
      return ErrorKind::kOverflow;
    case ETIMEDOUT:
    case EAGAIN:
      return ErrorKind::kTimeout;
    default:
      return ErrorKind::kSystem;
  }
}

}  // namespace

std::string errno_name(int errno_value) {
  const char* name = strerrorname_np(errno_value);
  return name != nullptr ? std::string(name) : "errno " + std::to_string(errno_value);
}

Error Error::from_errno(int errno_value, std::string_view what) {
  const char* description = strerrordesc_np(errno_value);
  std::string text(what);
  text += ": ";
  text += description != nullptr ? description : "unknown error";
  text += " (" + errno_name(errno_value) + ")";
  return {kind_of(errno_value), std::move(text), errno_value};
}

}  // namespace fairlead
