// SPDX-License-Identifier: Apache-2.0
#include "kube/json_frames.h"

namespace fairlead::kube {

bool JsonFrames::feed(std::string_view bytes,
                      const std::function<bool(std::string_view)>& on_object) {
  std::size_t start = 0;  // of the object at hand within `bytes`
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const char c = bytes[i];
    if (depth_ == 0) {
      if (c == ' ' || c == '\n' || c == '\r' || c == '\t') {
        continue;
      }
      if (c != '{') {
        return false;
      }
      depth_ = 1;
      start = i;
      continue;
    }
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == '"') {
        in_string_ = false;
      }
      continue;
    }
    if (c == '"') {
      in_string_ = true;
    } else if (c == '{' || c == '[') {
      ++depth_;
    } else if ((c == '}' || c == ']') && --depth_ == 0) {
      const std::string_view piece = bytes.substr(start, i + 1 - start);
      if (partial_.size() + piece.size() > limit_) {
        return false;
      }
      if (partial_.empty()) {
        if (!on_object(piece)) {
          return true;
        }
      } else {
        partial_ += piece;
        std::string whole;
        whole.swap(partial_);
        if (!on_object(whole)) {
          return true;
        }
      }
    }
  }
  if (depth_ > 0) {
    partial_ += bytes.substr(start);
    return partial_.size() <= limit_;
  }
  return true;
}

}  // namespace fairlead::kube
