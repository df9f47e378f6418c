// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace fairlead {

void check_failed(const char* file, int line, const char* what) {
  static_cast<void>(std::fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, what));
  std::abort();
}

}  // namespace fairlead
