// SPDX-License-Identifier: Apache-2.0
#include "kube/kubeconfig.h"

#include <array>
#include <cerrno>
#include <curl/curl.h>
#include <fcntl.h>
#include <filesystem>
#include <optional>
#include <set>
#include <unistd.h>

#include <yaml-cpp/yaml.h>

#include "base/text.h"
#include "base/unique_fd.h"
#include "kube/base64.h"
#include "kube/url.h"

namespace fairlead::kube {
namespace {

/// A server's address in the form we keep it, or what is wrong with it. The text itself stays out
/// of the message, since people do put passwords into URLs.
tl::expected<std::string, std::string> normal_server(std::string_view text, bool tls_configured) {
  std::string with_scheme(trim(text));
  if (with_scheme.find("://") == std::string::npos) {
    with_scheme.insert(0, tls_configured ? "https://" : "http://");
  }
  const Url url(curl_url());
  if (curl_url_set(url.get(), CURLUPART_URL, with_scheme.c_str(), CURLU_NON_SUPPORT_SCHEME) !=
      CURLUE_OK) {
    return tl::unexpected<std::string>("is not a URL; write it as https://host:port");
  }
  const std::string scheme = url_part(url, CURLUPART_SCHEME).value_or("");
  if (scheme != "https" && scheme != "http") {
    return tl::unexpected<std::string>("must start with https:// or http://");
  }
  if (url_part(url, CURLUPART_USER) || url_part(url, CURLUPART_PASSWORD)) {
    return tl::unexpected<std::string>("must not hold a user or password; give them in the user");
  }
  if (url_part(url, CURLUPART_QUERY) || url_part(url, CURLUPART_FRAGMENT)) {
    return tl::unexpected<std::string>("must not have a query or fragment");
  }
  std::string normal = url_part(url, CURLUPART_URL).value_or("");
  while (!normal.empty() && normal.back() == '/') {
    normal.pop_back();
  }
  return normal;
}

bool is_https(std::string_view server) { return server.starts_with("https://"); }

void drop_credentials(ApiServerConfig& config) {
  config.certificate_authority = {};
  config.insecure_skip_tls_verify = false;
  config.tls_server_name.clear();
  config.client_certificate = {};
  config.client_key = {};
  config.token = {};
  config.token_file.clear();
  config.username.clear();
  config.password = {};
  config.headers.clear();
}

bool looks_like_pem(std::string_view text) {
  return text.find("-----BEGIN ") != std::string_view::npos;
}

bool clean_token(std::string_view token) {
  for (const char c : token) {
    if (c <= ' ' || c == 0x7f) {
      return false;
    }
  }
  return !token.empty();
}

/// Reads one kubeconfig and gathers all that is wrong with it.
class Reader {
 public:
  Reader(std::string path, std::string_view master)
      : path_(std::move(path)),
        folder_(std::filesystem::path(path_).parent_path().string()),
        master_(master) {}

  Result<ApiServerConfig> read(const YAML::Node& root) {
    if (!root.IsDefined() || root.IsNull()) {
      return nothing();
    }
    if (!root.IsMap()) {
      problem(root, "", "must be a mapping with clusters, users and contexts");
      return finish();
    }
    check_repeats(root, "");
    const std::string kind = text(root, "", "kind");
    if (!kind.empty() && kind != "Config") {
      problem(root["kind"], "kind", "must be Config, is " + kind);
    }
    const std::string context_name = text(root, "", "current-context");
    if (context_name.empty()) {
      if (!has_entries(root, "contexts") && !has_entries(root, "clusters")) {
        return nothing();
      }
      problem(root, "current-context",
              "is missing; name the context to use (" + names(root, "contexts") + ")");
      return finish();
    }
    const YAML::Node context = entry(root, "contexts", "context", context_name,
                                     root["current-context"], "current-context");
    const std::string where = "contexts[" + context_name + "]";
    if (!context.IsMap()) {
      if (problems_.empty()) {
        problem(root["current-context"], where + ".context", "is missing; give it a cluster");
      }
      return finish();
    }
    const std::string cluster_name = text(context, where, "cluster");
    // The user first: whether it has a certificate tells what a server without a scheme means.
    const std::string user_name = text(context, where, "user");
    if (!user_name.empty()) {
      read_user(entry(root, "users", "user", user_name, context["user"], where + ".user"),
                "users[" + user_name + "]");
    }
    if (cluster_name.empty()) {
      problem(context, where + ".cluster", "is missing; name one of the clusters");
      return finish();
    }
    const YAML::Node cluster =
        entry(root, "clusters", "cluster", cluster_name, context["cluster"], where + ".cluster");
    if (cluster.IsMap()) {
      read_cluster(cluster, "clusters[" + cluster_name + "]");
    } else if (problems_.empty()) {
      problem(context["cluster"], "clusters[" + cluster_name + "].cluster",
              "is missing; give it a server");
    }
    return finish();
  }

  [[nodiscard]] std::string place(const YAML::Mark& mark) const {
    if (mark.is_null()) {
      return path_;
    }
    return path_ + ":" + std::to_string(mark.line + 1) + ":" + std::to_string(mark.column + 1);
  }

 private:
  [[nodiscard]] Result<ApiServerConfig> nothing() const {
    return fail(ErrorKind::kNotFound,
                path_ + ": configures nothing; give it clusters, contexts and a current-context");
  }

  void problem(const YAML::Node& node, const std::string& field, const std::string& what) {
    const YAML::Mark mark = node.IsDefined() ? node.Mark() : YAML::Mark::null_mark();
    problems_.push_back(place(mark) + ": " + (field.empty() ? "" : field + ": ") + what);
  }

  Result<ApiServerConfig> finish() {
    if (!problems_.empty()) {
      return fail(ErrorKind::kInvalidInput, join(problems_, "\n"));
    }
    if (!is_https(config_.server)) {
      drop_credentials(config_);
    }
    config_.origin = path_;
    return std::move(config_);
  }

  static std::string dotted(const std::string& where, std::string_view name) {
    return where.empty() ? std::string(name) : where + "." + std::string(name);
  }

  // yaml-cpp keeps the last of two equal keys without a word, so a mistake would hide the other.
  void check_repeats(const YAML::Node& map, const std::string& where) {
    std::set<std::string> seen;
    for (const auto& item : map) {
      if (item.first.IsScalar() && !seen.insert(item.first.Scalar()).second) {
        problem(item.first, dotted(where, item.first.Scalar()), "is given twice");
      }
    }
  }

  std::string text(const YAML::Node& map, const std::string& where, const char* name) {
    const YAML::Node value = map[name];
    if (!value.IsDefined() || value.IsNull()) {
      return {};
    }
    if (!value.IsScalar()) {
      problem(value, dotted(where, name), "must be a text");
      return {};
    }
    return value.Scalar();
  }

  bool flag(const YAML::Node& map, const std::string& where, const char* name) {
    const std::string value = text(map, where, name);
    if (value.empty() || value == "false") {
      return false;
    }
    if (value != "true") {
      problem(map[name], dotted(where, name), "must be true or false, is " + value);
    }
    return value == "true";
  }

  static bool has_entries(const YAML::Node& root, const char* list) {
    const YAML::Node node = root[list];
    return node.IsDefined() && node.IsSequence() && node.size() > 0;
  }

  static std::string names(const YAML::Node& root, const char* list) {
    std::vector<std::string> found;
    if (has_entries(root, list)) {
      for (const auto& item : root[list]) {
        if (item.IsMap() && item["name"].IsDefined() && item["name"].IsScalar()) {
          found.push_back(item["name"].Scalar());
        }
      }
    }
    return found.empty() ? "there is none" : "there are: " + join(found, ", ");
  }

  /// `list[name].body`, wanted by `reference` (named `reference_field`). Not a map if it is wrong.
  YAML::Node entry(const YAML::Node& root, const char* list, const char* body,
                   const std::string& name, const YAML::Node& reference,
                   const std::string& reference_field) {
    const YAML::Node entries = root[list];
    YAML::Node found;
    unsigned count = 0;
    if (entries.IsDefined() && entries.IsSequence()) {
      for (const auto& item : entries) {
        if (!item.IsMap() || text(item, list, "name") != name) {
          continue;
        }
        const std::string where = std::string(list) + "[" + name + "]";
        if (++count > 1) {
          problem(item, where, "is given twice");
          continue;
        }
        check_repeats(item, where);
        const YAML::Node inner = item[body];
        if (!inner.IsDefined() || inner.IsNull()) {
          continue;  // an empty user is an anonymous one
        }
        if (!inner.IsMap()) {
          problem(inner, where + "." + body, "must be a mapping");
          continue;
        }
        check_repeats(inner, where);
        found.reset(inner);
      }
    }
    if (count == 0) {
      problem(reference, reference_field,
              "there is no entry \"" + name + "\" in " + list + "; " + names(root, list));
    }
    return found;
  }

  [[nodiscard]] std::string absolute(const std::string& file) const {
    if (file.empty() || file.front() == '/' || folder_.empty()) {
      return file;
    }
    return folder_ + "/" + file;
  }

  /// The pair `name` (a file) and `name-data` (base64).
  Pem pem(const YAML::Node& map, const std::string& where, const char* name) {
    const std::string data_name = std::string(name) + "-data";
    const std::string file = text(map, where, name);
    const std::string data = text(map, where, data_name.c_str());
    if (!file.empty() && !data.empty()) {
      problem(map[data_name], dotted(where, data_name),
              std::string("conflicts with ") + name + "; give only one of the two");
      return {};
    }
    if (!file.empty()) {
      Pem made{absolute(file), {}};
      const Result<std::string> content = made.read();
      if (!content) {
        problem(map[name], dotted(where, name), content.error().text());
      } else if (!looks_like_pem(*content)) {
        problem(map[name], dotted(where, name), made.file + " is not in PEM form");
      }
      return made;
    }
    if (!data.empty()) {
      const std::optional<std::string> decoded = decode_base64(data);
      if (!decoded) {
        problem(map[data_name], dotted(where, data_name), "is not base64");
        return {};
      }
      if (!looks_like_pem(*decoded)) {
        problem(map[data_name], dotted(where, data_name),
                "does not hold PEM text; encode the PEM file with base64");
        return {};
      }
      return Pem{{}, Secret(*decoded)};
    }
    return {};
  }

  void read_cluster(const YAML::Node& cluster, const std::string& where) {
    config_.certificate_authority = pem(cluster, where, "certificate-authority");
    config_.insecure_skip_tls_verify = flag(cluster, where, "insecure-skip-tls-verify");
    if (config_.insecure_skip_tls_verify && !config_.certificate_authority.empty()) {
      problem(cluster["insecure-skip-tls-verify"], dotted(where, "insecure-skip-tls-verify"),
              "conflicts with the certificate authority; remove one of the two");
    }
    config_.tls_server_name = text(cluster, where, "tls-server-name");
    config_.disable_compression = flag(cluster, where, "disable-compression");
    read_proxy(cluster, where);

    const bool from_master = !master_.empty();
    const std::string server = from_master ? std::string(master_) : text(cluster, where, "server");
    if (from_master) {
      config_.tls_server_name.clear();  // it belongs to the address that is replaced
    }
    if (server.empty()) {
      problem(cluster, dotted(where, "server"), "is missing; write https://host:port");
      return;
    }
    const bool tls = !config_.certificate_authority.empty() ||
                     !config_.client_certificate.empty() || config_.insecure_skip_tls_verify;
    auto normal = normal_server(server, tls);
    if (normal) {
      config_.server = *normal;
    } else if (from_master) {
      problems_.push_back("--master: " + normal.error());
    } else {
      problem(cluster["server"], dotted(where, "server"), normal.error());
    }
  }

  void read_proxy(const YAML::Node& cluster, const std::string& where) {
    const std::string proxy = text(cluster, where, "proxy-url");
    if (proxy.empty()) {
      return;
    }
    const Url url(curl_url());
    const bool parsed = curl_url_set(url.get(), CURLUPART_URL, proxy.c_str(),
                                     CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK;
    const std::string scheme =
        parsed ? url_part(url, CURLUPART_SCHEME).value_or("") : std::string();
    if (scheme != "http" && scheme != "https" && scheme != "socks5") {
      problem(cluster["proxy-url"], dotted(where, "proxy-url"),
              "must be a URL with http://, https:// or socks5://");
      return;
    }
    config_.proxy_url = Secret(proxy);
  }

  void read_user(const YAML::Node& user, const std::string& where) {
    if (!user.IsMap()) {
      return;
    }
    refuse(user, where, "exec",
           "credential plugins are not supported yet; use a token, tokenFile or client "
           "certificate for this user");
    refuse(user, where, "auth-provider",
           "is not supported (its plugins left the Kubernetes clients too); use a token, "
           "tokenFile or client certificate for this user");
    config_.client_certificate = pem(user, where, "client-certificate");
    config_.client_key = pem(user, where, "client-key");
    if (config_.client_certificate.empty() != config_.client_key.empty()) {
      problem(user, where,
              config_.client_key.empty() ? "client-certificate is given without client-key"
                                         : "client-key is given without client-certificate");
    }
    read_token(user, where);
    config_.username = text(user, where, "username");
    config_.password = Secret(text(user, where, "password"));
    if (!config_.username.empty() && (!config_.token.empty() || !config_.token_file.empty())) {
      problem(user["username"], dotted(where, "username"),
              "conflicts with the token; give only one of the two");
    }
    if (config_.username.find(':') != std::string::npos) {
      problem(user["username"], dotted(where, "username"), "must not contain a colon");
    }
    read_impersonation(user, where);
  }

  void refuse(const YAML::Node& user, const std::string& where, const char* name,
              const std::string& why) {
    const YAML::Node value = user[name];
    if (value.IsDefined() && !value.IsNull()) {
      problem(value, dotted(where, name), why);
    }
  }

  void read_token(const YAML::Node& user, const std::string& where) {
    const std::string token = text(user, where, "token");
    if (!token.empty()) {
      if (!clean_token(trim(token))) {
        problem(user["token"], dotted(where, "token"), "must not contain blanks");
      }
      config_.token = Secret(std::string(trim(token)));
    }
    const std::string file = text(user, where, "tokenFile");
    if (file.empty()) {
      return;
    }
    config_.token_file = absolute(file);
    const Result<std::string> content = read_small_file(config_.token_file);
    if (!content) {
      problem(user["tokenFile"], dotted(where, "tokenFile"), content.error().text());
    } else if (!clean_token(trim(*content))) {
      problem(user["tokenFile"], dotted(where, "tokenFile"),
              config_.token_file + " must hold one token, without blanks");
    }
  }

  void header(const YAML::Node& node, const std::string& field, std::string name,
              const std::string& value) {
    for (const char c : value) {
      if (c < ' ' || c == 0x7f) {
        problem(node, field, "must not contain control characters");
        return;
      }
    }
    config_.headers.emplace_back(std::move(name), value);
  }

  void read_impersonation(const YAML::Node& user, const std::string& where) {
    const std::string as = text(user, where, "as");
    if (!as.empty()) {
      header(user["as"], dotted(where, "as"), "Impersonate-User", as);
    }
    const std::string uid = text(user, where, "as-uid");
    if (!uid.empty()) {
      header(user["as-uid"], dotted(where, "as-uid"), "Impersonate-Uid", uid);
    }
    const YAML::Node groups = user["as-groups"];
    if (groups.IsDefined() && !groups.IsNull()) {
      header_list(groups, dotted(where, "as-groups"), "Impersonate-Group");
    }
    const YAML::Node extra = user["as-user-extra"];
    if (extra.IsDefined() && !extra.IsNull()) {
      if (!extra.IsMap()) {
        problem(extra, dotted(where, "as-user-extra"), "must be a mapping of lists");
        return;
      }
      for (const auto& item : extra) {
        const std::string key = item.first.IsScalar() ? item.first.Scalar() : std::string();
        if (key.empty() || key.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVW"
                                                 "XYZ0123456789-_.") != std::string::npos) {
          problem(item.first, dotted(where, "as-user-extra"),
                  "keys may hold letters, digits, '-', '_' and '.' only");
          continue;
        }
        header_list(item.second, dotted(where, "as-user-extra." + key), "Impersonate-Extra-" + key);
      }
    }
  }

  void header_list(const YAML::Node& list, const std::string& field, const std::string& name) {
    if (!list.IsSequence()) {
      problem(list, field, "must be a list of texts");
      return;
    }
    for (const auto& item : list) {
      if (item.IsScalar()) {
        header(item, field, name, item.Scalar());
      } else {
        problem(item, field, "must be a list of texts");
      }
    }
  }

  std::string path_;
  std::string folder_;
  std::string_view master_;
  ApiServerConfig config_;
  std::vector<std::string> problems_;
};

Result<ApiServerConfig> from_master(std::string_view master) {
  auto server = normal_server(master, false);
  if (!server) {
    return fail(ErrorKind::kInvalidInput, "--master: " + server.error());
  }
  ApiServerConfig config;
  config.server = *server;
  config.origin = "--master";
  return config;
}

}  // namespace

Result<std::string> Pem::read() const {
  return file.empty() ? data.reveal() : read_small_file(file);
}

Result<std::string> read_small_file(const std::string& path) {
  constexpr std::size_t kLimit = 1U << 20U;
  // O_NONBLOCK: a fifo in the place of a file must not hold up the caller.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) {
    return fail_errno(errno, "open " + path);
  }
  std::string content;
  std::array<char, 16384> buffer{};
  for (;;) {
    const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0) {
      if (errno == EINTR) {
        continue;
      }
      return fail_errno(errno, "read " + path);
    }
    if (got == 0) {
      return content;
    }
    content.append(buffer.data(), static_cast<std::size_t>(got));
    if (content.size() > kLimit) {
      return fail(ErrorKind::kInvalidInput, path + " is larger than 1 MiB");
    }
  }
}

Result<ApiServerConfig> parse_kubeconfig(std::string_view text, const std::string& path,
                                         std::string_view master) {
  Reader reader(path, master);
  try {
    return reader.read(YAML::Load(std::string(text)));
  } catch (const YAML::Exception& error) {
    return fail(ErrorKind::kInvalidInput, reader.place(error.mark) + ": " + error.msg);
  }
}

Result<ApiServerConfig> in_cluster_config(const InCluster& in_cluster) {
  if (in_cluster.service_host.empty() || in_cluster.service_port.empty()) {
    return fail(ErrorKind::kUnavailable,
                "in-cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; give "
                "--kubeconfig or --master outside of a cluster");
  }
  const bool bare_ipv6 = in_cluster.service_host.find(':') != std::string::npos &&
                         in_cluster.service_host.front() != '[';
  const std::string host =
      bare_ipv6 ? "[" + in_cluster.service_host + "]" : in_cluster.service_host;
  auto server = normal_server("https://" + host + ":" + in_cluster.service_port, true);
  if (!server) {
    return fail(ErrorKind::kInvalidInput,
                "in-cluster: KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT: " + server.error());
  }
  ApiServerConfig config;
  config.server = *server;
  config.origin = "in-cluster";
  config.token_file = in_cluster.directory + "/token";
  const Result<std::string> token = read_small_file(config.token_file);
  if (!token) {
    return fail(token.error().in("in-cluster: service account token"));
  }
  if (!clean_token(trim(*token))) {
    return fail(ErrorKind::kInvalidInput,
                "in-cluster: " + config.token_file + " must hold one token, without blanks");
  }
  // Clusters whose API server has a public certificate mount no CA: the system's roots then do.
  const std::string authority = in_cluster.directory + "/ca.crt";
  const Result<std::string> content = read_small_file(authority);
  if (content && looks_like_pem(*content)) {
    config.certificate_authority.file = authority;
  }
  return config;
}

Result<ApiServerConfig> load_api_server_config(const ApiServerChoice& choice) {
  if (choice.kubeconfig.empty()) {
    return choice.master.empty() ? in_cluster_config(choice.in_cluster)
                                 : from_master(choice.master);
  }
  const Result<std::string> text = read_small_file(choice.kubeconfig);
  if (!text) {
    return fail(text.error().in("--kubeconfig"));
  }
  Result<ApiServerConfig> config = parse_kubeconfig(*text, choice.kubeconfig, choice.master);
  if (config || config.error().kind() != ErrorKind::kNotFound) {
    return config;
  }
  if (!choice.master.empty()) {
    return from_master(choice.master);
  }
  Result<ApiServerConfig> fallback = in_cluster_config(choice.in_cluster);
  return fallback ? std::move(fallback) : std::move(config);
}

}  // namespace fairlead::kube
