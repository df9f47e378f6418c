// SPDX-License-Identifier: Apache-2.0
#include "kube/kubeconfig.h"

#include <algorithm>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>

#include "kube/credentials.h"
#include "kube/testing/folder.h"

namespace fairlead::kube {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

constexpr const char* kPem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
constexpr const char* kPemBase64 =
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBPT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";

class FolderTest : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) const { folder_.write(name, text); }
  TestFolder folder_;
  std::string path_ = folder_.path();
};

/// `cluster` and `user` are the inner lines, each starting on a known line.
std::string with(const std::string& cluster, const std::string& user) {
  return "apiVersion: v1\n"                        // 1
         "kind: Config\n"                          // 2
         "current-context: here\n"                 // 3
         "contexts:\n"                             // 4
         "- name: here\n"                          // 5
         "  context: {cluster: prod, user: me}\n"  // 6
         "users:\n"                                // 7
         "- name: me\n"                            // 8
         "  user: {" +
         user +
         "}\n"             // 9
         "clusters:\n"     // 10
         "- name: prod\n"  // 11
         "  cluster: {" +
         cluster + "}\n";  // 12
}

using Kubeconfig = FolderTest;

TEST_F(Kubeconfig, FilesAreRelativeToIt) {
  write("ca.pem", kPem);
  write("me.pem", kPem);
  write("me.key", kPem);
  write("config", with("server: 'https://192.0.2.1:6443/prefix/', certificate-authority: ca.pem, "
                       "tls-server-name: api.example, proxy-url: 'socks5://127.0.0.1:1080', "
                       "disable-compression: true",
                       "client-certificate: me.pem, client-key: " + path_ + "/me.key"));
  ApiServerChoice choice;
  choice.kubeconfig = path_ + "/config";
  const Result<ApiServerConfig> config = load_api_server_config(choice);
  ASSERT_TRUE(config) << config.error().text();
  EXPECT_EQ(config->server, "https://192.0.2.1:6443/prefix");
  EXPECT_EQ(config->origin, path_ + "/config");
  EXPECT_EQ(config->certificate_authority.file, path_ + "/ca.pem");
  EXPECT_EQ(config->client_certificate.file, path_ + "/me.pem");
  EXPECT_EQ(config->client_key.read().value(), kPem);
  EXPECT_EQ(config->tls_server_name, "api.example");
  EXPECT_EQ(config->proxy_url.reveal(), "socks5://127.0.0.1:1080");
  EXPECT_TRUE(config->disable_compression);

  choice.master = "https://198.51.100.1";
  const Result<ApiServerConfig> elsewhere = load_api_server_config(choice);
  ASSERT_TRUE(elsewhere) << elsewhere.error().text();
  EXPECT_EQ(elsewhere->server, "https://198.51.100.1");
  EXPECT_EQ(elsewhere->tls_server_name, "");
  EXPECT_FALSE(elsewhere->client_certificate.empty());
}

TEST(KubeconfigText, InlineDataInJson) {
  const Result<ApiServerConfig> config = parse_kubeconfig(
      std::string(R"({"kind":"Config","current-context":"c","contexts":[{"name":"c","context":
        {"cluster":"k","user":"u"}}],"clusters":[{"name":"k","cluster":{"server":
        "https://[2001:db8::1]:6443","certificate-authority-data":")") +
          kPemBase64 + R"("}}],"users":[{"name":"u","user":{"token":"abc","as":"other",
        "as-groups":["one","two"],"as-user-extra":{"k":["v"]}}}]})",
      "config");
  ASSERT_TRUE(config) << config.error().text();
  EXPECT_EQ(config->server, "https://[2001:db8::1]:6443");
  EXPECT_EQ(config->certificate_authority.data.reveal(), kPem);
  EXPECT_EQ(config->token.reveal(), "abc");
  EXPECT_THAT(config->headers,
              ElementsAre(Pair("Impersonate-User", "other"), Pair("Impersonate-Group", "one"),
                          Pair("Impersonate-Group", "two"), Pair("Impersonate-Extra-k", "v")));
}

TEST(KubeconfigText, Servers) {
  struct Case {
    std::string cluster;
    std::string want;
  };
  for (const Case& c : std::vector<Case>{
           {"server: 'https://a:1'", "https://a:1"},
           {"server: 'http://a:1/'", "http://a:1"},
           {"server: 'a:1'", "http://a:1"},
           {"server: a.example", "http://a.example"},
           {"server: 'a:1', insecure-skip-tls-verify: true", "https://a:1"},
           {std::string("server: 'a:1', certificate-authority-data: ") + kPemBase64, "https://a:1"},
       }) {
    const Result<ApiServerConfig> config = parse_kubeconfig(with(c.cluster, ""), "f");
    ASSERT_TRUE(config) << c.cluster << ": " << config.error().text();
    EXPECT_EQ(config->server, c.want) << c.cluster;
  }
}

TEST(KubeconfigText, NoCredentialsInClearText) {
  const Result<ApiServerConfig> config =
      parse_kubeconfig(with("server: 'http://192.0.2.1'", "token: abc, as: root"), "f");
  ASSERT_TRUE(config) << config.error().text();
  EXPECT_TRUE(config->token.empty());
  EXPECT_TRUE(config->headers.empty());
}

TEST(KubeconfigText, Mistakes) {
  struct Case {
    std::string text;
    std::string want;
  };
  const std::string server = "server: 'https://a'";
  const std::string data = kPemBase64;
  const std::string inline_ca = ", certificate-authority-data: " + data;
  const auto and_ca = [&](const std::string& extra) { return server + extra + inline_ca; };
  for (const Case& c : std::vector<Case>{
           {with("", ""), "f:12:12: clusters[prod].server: is missing"},
           {with("server: 'ftp://a'", ""), "f:12:21: clusters[prod].server: must start with"},
           {with("server: 'https://u:hidden@a'", ""), "must not hold a user or password"},
           {with("server: ['a']", ""), "f:12:21: clusters[prod].server: must be a text"},
           {with(and_ca(", certificate-authority: x"), ""),
            "clusters[prod].certificate-authority-data: conflicts with certificate-authority"},
           {with(server + ", certificate-authority: /nowhere/ca", ""),
            "clusters[prod].certificate-authority: open /nowhere/ca: No such file"},
           {with(server + ", certificate-authority-data: '*'", ""), "is not base64"},
           {with(server + ", certificate-authority-data: QUJD", ""), "does not hold PEM"},
           {with(and_ca(", insecure-skip-tls-verify: true"), ""),
            "clusters[prod].insecure-skip-tls-verify: conflicts"},
           {with(server + ", insecure-skip-tls-verify: maybe", ""), "must be true or false"},
           {with(server + ", proxy-url: 'gopher://x'", ""), "clusters[prod].proxy-url: must be"},
           {with(server + ", server: b", ""), "clusters[prod].server: is given twice"},
           {with(server, "client-certificate-data: " + data),
            "f:9:9: users[me]: client-certificate is given without client-key"},
           {with(server, "client-key-data: " + data), "client-key is given without"},
           {with(server, "token: a, username: b, password: c"),
            "f:9:30: users[me].username: conflicts with the token"},
           {with(server, "token: 'hidden word'"), "users[me].token: must not contain blanks"},
           {with(server, "tokenFile: /nowhere/t"), "users[me].tokenFile: open /nowhere/t"},
           {with(server, "exec: {command: x}"),
            "f:9:16: users[me].exec: credential plugins are not supported yet; use a token"},
           {with(server, "auth-provider: {name: gcp}"), "users[me].auth-provider: is not"},
           {with(server, R"(as: "a\nb")"), "users[me].as: must not contain control"},
           {"current-context: x\nclusters: []\n",
            R"(f:1:18: current-context: there is no entry "x" in contexts)"},
           {"contexts:\n- {name: a, context: {}}\n",
            "current-context: is missing; name the "
            "context to use (there are: a)"},
           {"current-context: a\ncontexts:\n- {name: a, context: {cluster: k}}\n",
            R"(f:3:32: contexts[a].cluster: there is no entry "k" in clusters; there is none)"},
           {"kind: Pod\ncurrent-context: a", "f:1:7: kind: must be Config, is Pod"},
           {"a: [\n", "f:2:1: "},
           {"- a\n", "must be a mapping"},
           {"", "f: configures nothing"},
       }) {
    const Result<ApiServerConfig> config = parse_kubeconfig(c.text, "f");
    ASSERT_FALSE(config) << c.text;
    EXPECT_THAT(config.error().text(), HasSubstr(c.want)) << c.text;
    EXPECT_THAT(config.error().text(), Not(HasSubstr("hidden"))) << c.text;
  }
}

TEST(KubeconfigText, AllMistakesAtOnce) {
  const Result<ApiServerConfig> config = parse_kubeconfig(
      with("server: 'ftp://a', insecure-skip-tls-verify: x", "exec: {}, tokenFile: /no"), "f");
  ASSERT_FALSE(config);
  EXPECT_EQ(std::ranges::count(config.error().text(), '\n'), 3) << config.error().text();
}

using InClusterConfig = FolderTest;

TEST_F(InClusterConfig, FromAPod) {
  ApiServerChoice choice;
  choice.in_cluster = {"2001:db8::1", "443", path_};
  EXPECT_FALSE(load_api_server_config(choice));
  write("token", "abc\n");
  Result<ApiServerConfig> config = load_api_server_config(choice);
  ASSERT_TRUE(config) << config.error().text();
  EXPECT_EQ(config->server, "https://[2001:db8::1]:443");
  EXPECT_TRUE(config->certificate_authority.empty());
  EXPECT_EQ(config->token_file, path_ + "/token");
  write("ca.crt", kPem);
  config = load_api_server_config(choice);
  ASSERT_TRUE(config) << config.error().text();
  EXPECT_EQ(config->certificate_authority.file, path_ + "/ca.crt");

  write("empty", "");
  choice.kubeconfig = path_ + "/empty";
  config = load_api_server_config(choice);
  ASSERT_TRUE(config) << config.error().text();
  EXPECT_EQ(config->origin, "in-cluster");

  choice.in_cluster.service_host.clear();
  config = load_api_server_config(choice);
  ASSERT_FALSE(config);
  EXPECT_THAT(config.error().text(), HasSubstr("empty: configures nothing"));
  choice.kubeconfig.clear();
  config = load_api_server_config(choice);
  ASSERT_FALSE(config);
  EXPECT_THAT(config.error().text(), HasSubstr("KUBERNETES_SERVICE_HOST"));
}

TEST(MasterOnly, HasNoCredentials) {
  ApiServerChoice choice;
  choice.master = "127.0.0.1:8080";
  const Result<ApiServerConfig> config = load_api_server_config(choice);
  ASSERT_TRUE(config) << config.error().text();
  EXPECT_EQ(config->server, "http://127.0.0.1:8080");
  choice.master = "https://:x";
  EXPECT_FALSE(load_api_server_config(choice));
}

using Token = FolderTest;

TEST_F(Token, FollowsItsFile) {
  ApiServerConfig config;
  config.token = Secret("fixed");
  const event::TimePoint start{std::chrono::hours(1)};
  EXPECT_EQ(BearerToken(config).current(start).reveal(), "fixed");

  config.token_file = path_ + "/token";
  write("token", " first\n");
  BearerToken token(config);
  EXPECT_EQ(token.current(start).reveal(), "first");
  write("token", "second");
  EXPECT_EQ(token.current(start + std::chrono::seconds(49)).reveal(), "first");
  EXPECT_EQ(token.current(start + std::chrono::seconds(50)).reveal(), "second");
  write("token", "third");
  token.expire();
  EXPECT_EQ(token.current(start + std::chrono::seconds(51)).reveal(), "third");
  for (const std::string bad : {"", " \n", "a\r\nX-Other: b"}) {
    write("token", bad);
    token.expire();
    EXPECT_EQ(token.current(start + std::chrono::seconds(51)).reveal(), "third") << bad;
  }
  std::filesystem::remove(path_ + "/token");
  token.expire();
  EXPECT_EQ(token.current(start + std::chrono::seconds(52)).reveal(), "third");
}

}  // namespace
}  // namespace fairlead::kube
