// SPDX-License-Identifier: Apache-2.0
// How to reach an API server and as whom: from a kubeconfig file, from a pod's service account, or
// from a bare address. Reads files, takes the environment as arguments; any thread.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace fairlead::kube {

/// Text that never reaches a log or an error: no stream operator, no conversion.
class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string value) : value_(std::move(value)) {}
  [[nodiscard]] bool empty() const { return value_.empty(); }
  [[nodiscard]] const std::string& reveal() const { return value_; }
  friend bool operator==(const Secret&, const Secret&) = default;

 private:
  std::string value_;
};

/// A certificate or key in PEM: inline, or a file that may be rotated under us. Not both.
struct Pem {
  std::string file;
  Secret data;

  [[nodiscard]] bool empty() const { return file.empty() && data.empty(); }
  /// The inline text, or what the file holds now. An empty Pem gives an empty text.
  [[nodiscard]] Result<std::string> read() const;
  friend bool operator==(const Pem&, const Pem&) = default;
};

/// Everything the transport needs, checked: the server is a URL, files were readable, nothing
/// conflicts. For an http server all credentials are empty: they must not travel in clear text.
struct ApiServerConfig {
  std::string server;  // `https://host:port/prefix`, no slash at the end
  std::string origin;  // for messages: the kubeconfig's path, `in-cluster` or `--master`

  Pem certificate_authority;  // empty: the system's roots; else instead of them
  bool insecure_skip_tls_verify = false;
  std::string tls_server_name;  // empty: the URL's host
  Secret proxy_url;             // empty: by the environment. Secret, as it may hold a password

  Pem client_certificate;  // both or none of the two
  Pem client_key;
  Secret token;
  std::string token_file;  // wins over `token`
  std::string username;
  Secret password;
  /// Sent with each request; `Impersonate-*`.
  std::vector<std::pair<std::string, std::string>> headers;
  bool disable_compression = false;

  friend bool operator==(const ApiServerConfig&, const ApiServerConfig&) = default;
};

/// What a pod gets from its cluster.
struct InCluster {
  std::string service_host;  // environment KUBERNETES_SERVICE_HOST
  std::string service_port;  // environment KUBERNETES_SERVICE_PORT
  std::string directory = "/var/run/secrets/kubernetes.io/serviceaccount";
};

/// Where the configuration comes from:
/// neither: in-cluster; only a kubeconfig: that (an empty one: in-cluster if possible); only a
/// master: its address without credentials; both: the kubeconfig with the master's address, which
/// drops tls-server-name. Neither KUBECONFIG nor ~/.kube/config is looked at.
struct ApiServerChoice {
  std::string kubeconfig;
  std::string master;
  InCluster in_cluster;
};
/// Errors are `file:line:column: field: problem`, with `field` such as `clusters[prod].server`.
[[nodiscard]] Result<ApiServerConfig> load_api_server_config(const ApiServerChoice& choice);

/// One kubeconfig text, YAML or JSON. `path` names it in errors, and its folder is where relative
/// paths start. A text that configures nothing is ErrorKind::kNotFound.
[[nodiscard]] Result<ApiServerConfig> parse_kubeconfig(std::string_view text,
                                                       const std::string& path,
                                                       std::string_view master = {});
[[nodiscard]] Result<ApiServerConfig> in_cluster_config(const InCluster& in_cluster);

/// A whole file, for the small ones that hold certificates and tokens. Refuses more than 1 MiB.
[[nodiscard]] Result<std::string> read_small_file(const std::string& path);

}  // namespace fairlead::kube
