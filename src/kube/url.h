// SPDX-License-Identifier: Apache-2.0
// libcurl's URLs. Only for the sources of this module.
#pragma once

#include <curl/curl.h>
#include <memory>
#include <optional>
#include <string>

namespace fairlead::kube {

struct UrlDeleter {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using Url = std::unique_ptr<CURLU, UrlDeleter>;

/// Nothing if the URL has no such part. `flags` are CURLU_ ones.
inline std::optional<std::string> url_part(const Url& url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url.get(), part, &text, flags) != CURLUE_OK) {
    return std::nullopt;
  }
  std::string value(text);
  curl_free(text);
  return value;
}

}  // namespace fairlead::kube
