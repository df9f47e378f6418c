// SPDX-License-Identifier: Apache-2.0
// The transport against a real server on loopback, with TLS and certificates made on the spot.
#include "kube/http.h"

#include <arpa/inet.h>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <netinet/in.h>
#include <set>
#include <string>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "base/subprocess.h"
#include "base/unique_fd.h"
#include "kube/api_source.h"
#include "kube/testing/folder.h"

namespace fairlead::kube {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::Not;

/// Two authorities, a server certificate for 127.0.0.1 and api.example, and two client ones.
class Certificates {
 public:
  Certificates() {
    for (const std::string authority : {"ca", "other-ca"}) {
      openssl({"req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
               "-nodes", "-days", "2", "-subj", "/CN=" + authority, "-keyout",
               folder_.file(authority + ".key"), "-out", folder_.file(authority + ".pem")});
    }
    sign("server", "subjectAltName=IP:127.0.0.1,DNS:api.example");
    sign("client", "extendedKeyUsage=clientAuth");
    sign("second", "extendedKeyUsage=clientAuth");
  }
  [[nodiscard]] std::string file(const std::string& name) const { return folder_.file(name); }

 private:
  static void openssl(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "openssl");
    const Result<std::string> done = run_program(arguments, "", seconds(60));
    ASSERT_TRUE(done) << done.error().text();
  }
  void sign(const std::string& name, const std::string& extension) {
    const std::string base = folder_.file(name);
    std::ofstream(base + ".ext") << extension << "\n";
    openssl({"req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
             "/CN=" + name, "-keyout", base + ".key", "-out", base + ".csr"});
    openssl({"x509", "-req", "-in", base + ".csr", "-CA", folder_.file("ca.pem"), "-CAkey",
             folder_.file("ca.key"), "-CAcreateserial", "-days", "2", "-extfile", base + ".ext",
             "-out", base + ".pem"});
  }
  TestFolder folder_;
};

/// The stub server as a child that ends with its standard input, even if the test dies.
class Stub {
 public:
  explicit Stub(const std::vector<std::string>& arguments) {
    std::array<int, 2> to{};
    std::array<int, 2> from{};
    EXPECT_EQ(::pipe2(to.data(), O_CLOEXEC), 0);
    EXPECT_EQ(::pipe2(from.data(), O_CLOEXEC), 0);
    std::vector<std::string> command{"python3", FAIRLEAD_API_STUB};
    command.insert(command.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    argv.reserve(command.size() + 1);
    for (std::string& argument : command) {
      argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(to[0], STDIN_FILENO);
      ::dup2(from[1], STDOUT_FILENO);
      ::execvp(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(to[0]);
    ::close(from[1]);
    input_ = UniqueFd(to[1]);
    const UniqueFd output(from[0]);
    char c = 0;
    ssize_t got = ::read(output.get(), &c, 1);
    for (; got == 1 && c != '\n'; got = ::read(output.get(), &c, 1)) {
      port_ += c;
    }
    EXPECT_EQ(got, 1) << "the stub did not start";
  }
  Stub(const Stub&) = delete;
  Stub& operator=(const Stub&) = delete;
  ~Stub() { stop(); }
  void stop() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
      pid_ = 0;
    }
  }
  [[nodiscard]] const std::string& port() const { return port_; }

 private:
  pid_t pid_ = 0;
  UniqueFd input_;
  std::string port_;
};

/// The defaults but for one.
template <typename T>
HttpOptions with_option(T HttpOptions::* option, T value) {
  HttpOptions options;
  options.*option = std::move(value);
  return options;
}

struct Answer {
  HttpHead head;
  std::string body;
  std::vector<std::string> pieces;
  bool over = false;
  bool failed = false;
  TransportError error;
};

class HttpTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    // What the environment says about proxies is not for a server on loopback.
    for (const char* name :
         {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}) {
      ::unsetenv(name);
    }
    certificates = std::make_unique<Certificates>();
    server = std::make_unique<Stub>(std::vector<std::string>{certificates->file("server.pem"),
                                                             certificates->file("server.key"),
                                                             certificates->file("ca.pem")});
  }
  static void TearDownTestSuite() {
    server.reset();
    certificates.reset();
  }

  static ApiServerConfig config() {
    ApiServerConfig made;
    made.server = "https://127.0.0.1:" + server->port();
    made.certificate_authority.file = certificates->file("ca.pem");
    return made;
  }

  std::unique_ptr<HttpClient> client(const ApiServerConfig& with, HttpOptions options = {}) {
    Result<std::unique_ptr<HttpClient>> made = HttpClient::make(*loop_, with, std::move(options));
    EXPECT_TRUE(made) << made.error().text();
    return std::move(*made);
  }

  HttpHandler into(Answer& answer, const std::function<void()>& at_end = {}) const {
    return HttpHandler{
        .on_head = [&answer](const HttpHead& head) { answer.head = head; },
        .on_data =
            [&answer](std::string_view bytes) {
              answer.body += bytes;
              answer.pieces.emplace_back(bytes);
            },
        .on_end =
            [this, &answer, at_end](const std::optional<TransportError>& error) {
              answer.failed = error.has_value();
              answer.error = error.value_or(TransportError{});
              answer.over = true;
              if (at_end) {
                at_end();
              } else {
                loop_->stop();
              }
            },
    };
  }

  /// One request to its end.
  Answer get(HttpClient& from, const std::string& target, event::Duration deadline = seconds(20)) {
    Answer answer;
    const auto exchange = from.get({.target = target, .deadline = deadline}, into(answer));
    EXPECT_FALSE(answer.over) << "answered within the call";
    loop_->run();
    return answer;
  }
  Answer get(const ApiServerConfig& with, const std::string& target) {
    const auto made = client(with);
    return get(*made, target);
  }

  /// Runs until `done` says so.
  void run_until(const std::function<bool()>& done) {
    const auto deadline = loop_->now() + seconds(20);
    std::unique_ptr<event::Timer> poll;
    poll = loop_->timer([&] {
      if (done() || loop_->now() > deadline) {
        loop_->stop();
      } else {
        poll->start(milliseconds(5));
      }
    });
    poll->start(milliseconds(0));
    loop_->run();
    EXPECT_TRUE(done());
  }

  static std::unique_ptr<Certificates> certificates;
  static std::unique_ptr<Stub> server;
  std::unique_ptr<event::UvLoop> loop_ = event::make_uv_loop();
};
std::unique_ptr<Certificates> HttpTest::certificates;
std::unique_ptr<Stub> HttpTest::server;

TEST_F(HttpTest, SendsWhoWeAre) {
  ApiServerConfig with = config();
  with.server += "/prefix";
  with.token = Secret("tok");
  with.headers = {{"Impersonate-User", "other"}};
  with.client_certificate.file = certificates->file("client.pem");
  with.client_key.file = certificates->file("client.key");
  const auto made =
      client(with, with_option(&HttpOptions::user_agent, std::string("fairlead/test")));
  const Answer answer = get(*made, "/echo?a=%21b");
  ASSERT_FALSE(answer.failed) << answer.error.text;
  EXPECT_EQ(answer.head.status, 200);
  EXPECT_EQ(answer.head.content_type, "application/json");
  EXPECT_THAT(answer.body, HasSubstr(R"("Authorization": "Bearer tok")"));
  EXPECT_THAT(answer.body, HasSubstr(R"("User-Agent": "fairlead/test")"));
  EXPECT_THAT(answer.body, HasSubstr(R"("Accept": "application/json")"));
  EXPECT_THAT(answer.body, HasSubstr(R"("Accept-Encoding": "gzip")"));
  EXPECT_THAT(answer.body, HasSubstr(R"("Impersonate-User": "other")"));
  EXPECT_THAT(answer.body, HasSubstr(R"("peer": "commonName=client")"));
  EXPECT_THAT(answer.body, HasSubstr(R"("path": "/prefix/echo?a=%21b")"));
}

TEST_F(HttpTest, InlineCertificatesAndPassword) {
  ApiServerConfig with = config();
  for (Pem* pem : {&with.certificate_authority, &with.client_certificate, &with.client_key}) {
    const char* name = pem == &with.client_certificate ? "client.pem"
                       : pem == &with.client_key       ? "client.key"
                                                       : "ca.pem";
    *pem = Pem{{}, Secret(read_small_file(certificates->file(name)).value())};
  }
  with.username = "me";
  with.password = Secret("pass");
  const Answer answer = get(with, "/echo");
  ASSERT_FALSE(answer.failed) << answer.error.text;
  EXPECT_THAT(answer.body, HasSubstr(R"("Authorization": "Basic bWU6cGFzcw==")"));
  EXPECT_THAT(answer.body, HasSubstr(R"("peer": "commonName=client")"));
}

TEST_F(HttpTest, TrustsOnlyWhatItIsTold) {
  ApiServerConfig with = config();
  with.certificate_authority.file = certificates->file("other-ca.pem");
  Answer answer = get(with, "/echo");
  ASSERT_TRUE(answer.failed);
  EXPECT_EQ(answer.error.kind, TransportError::Kind::kUntrusted);

  with.certificate_authority = {};
  answer = get(with, "/echo");
  ASSERT_TRUE(answer.failed);
  EXPECT_EQ(answer.error.kind, TransportError::Kind::kUntrusted);

  with.insecure_skip_tls_verify = true;
  answer = get(with, "/echo");
  EXPECT_FALSE(answer.failed);
}

TEST_F(HttpTest, VerifiesTheNameItIsTold) {
  ApiServerConfig with = config();
  with.tls_server_name = "api.example";
  Answer answer = get(with, "/echo");
  ASSERT_FALSE(answer.failed) << answer.error.text;
  EXPECT_THAT(answer.body, HasSubstr(R"("Host": "127.0.0.1:)" + server->port()));

  with.tls_server_name = "other.example";
  answer = get(with, "/echo");
  ASSERT_TRUE(answer.failed);
  EXPECT_EQ(answer.error.kind, TransportError::Kind::kUntrusted);
}

TEST_F(HttpTest, ReadsGzip) {
  const Answer answer = get(config(), "/gzip");
  ASSERT_FALSE(answer.failed) << answer.error.text;
  EXPECT_EQ(answer.body, std::string(200000, 'x'));
}

TEST_F(HttpTest, ErrorsHaveTheirHeadAndBody) {
  const Answer answer = get(config(), "/status?code=429");
  ASSERT_FALSE(answer.failed) << answer.error.text;
  EXPECT_EQ(answer.head.status, 429);
  EXPECT_EQ(answer.head.retry_after, seconds(7));
  EXPECT_THAT(answer.body, HasSubstr("said so"));
}

TEST_F(HttpTest, StreamsAsItComes) {
  const Answer answer = get(config(), "/stream?count=5");
  ASSERT_FALSE(answer.failed) << answer.error.text;
  EXPECT_EQ(answer.body, "piece 0\npiece 1\npiece 2\npiece 3\npiece 4\n");
  EXPECT_GT(answer.pieces.size(), 1U);
}

TEST_F(HttpTest, ReusesItsConnection) {
  const auto made = client(config());
  const std::string first = get(*made, "/echo").body;
  EXPECT_EQ(get(*made, "/echo").body, first);  // it holds the connection's number
}

TEST_F(HttpTest, DeadlineMeansANewConnection) {
  const auto made = client(config());
  const std::string first = get(*made, "/echo").body;
  const Answer answer = get(*made, "/hang", milliseconds(200));
  ASSERT_TRUE(answer.failed);
  EXPECT_EQ(answer.error.kind, TransportError::Kind::kTimeout);
  EXPECT_NE(get(*made, "/echo").body, first);
}

TEST_F(HttpTest, DistrustMeansANewConnection) {
  const auto made = client(config());
  const std::string first = get(*made, "/echo").body;
  Answer answer;
  {
    const auto exchange = made->get({.target = "/endless"}, into(answer));
    run_until([&] { return !answer.body.empty(); });
    exchange->distrust_connection();
    exchange->distrust_connection();
  }
  EXPECT_FALSE(answer.over);
  EXPECT_NE(get(*made, "/echo").body, first);
}

TEST_F(HttpTest, SilentStreamsEndIfTheServerIsDead) {
  HttpOptions options;
  options.idle_probe = milliseconds(100);
  options.probe_deadline = milliseconds(200);
  options.probe_target = "/hang";
  const auto made = client(config(), options);
  Answer quiet;
  Answer busy;
  const auto one = made->get({.target = "/quiet"}, into(quiet));
  loop_->run();
  ASSERT_TRUE(quiet.failed);
  EXPECT_EQ(quiet.error.kind, TransportError::Kind::kBroken);
  EXPECT_THAT(quiet.error.text, HasSubstr("looked dead"));

  // Where something is told there is nothing to ask.
  const auto two = made->get({.target = "/endless"}, into(busy));
  run_until([&] { return busy.body.size() > 20; });
  EXPECT_FALSE(busy.over);
}

TEST_F(HttpTest, SilentStreamsGoOnIfTheServerAnswers) {
  HttpOptions options;
  options.idle_probe = milliseconds(50);
  options.probe_target = "/status?code=403";
  const auto made = client(config(), options);
  Answer quiet;
  const auto one = made->get({.target = "/quiet"}, into(quiet));
  const auto until = loop_->now() + milliseconds(500);
  run_until([&] { return loop_->now() > until; });
  EXPECT_EQ(quiet.body, "x");
  EXPECT_FALSE(quiet.over);
}

TEST_F(HttpTest, BrokenAnswers) {
  const Answer answer = get(config(), "/half");
  ASSERT_TRUE(answer.failed);
  EXPECT_EQ(answer.error.kind, TransportError::Kind::kBroken);
  EXPECT_EQ(answer.body, "half");
}

TEST_F(HttpTest, NobodyThere) {
  // A port that was free a moment ago; bound and not listening, so that nobody else takes it.
  const UniqueFd bound(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_GE(bound.get(), 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  ASSERT_EQ(::bind(bound.get(), generic, size), 0);
  ASSERT_EQ(::getsockname(bound.get(), generic, &size), 0);
  ApiServerConfig with = config();
  with.server = "https://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  with.token = Secret("hidden");
  const Answer answer = get(with, "/echo");
  ASSERT_TRUE(answer.failed);
  EXPECT_EQ(answer.error.kind, TransportError::Kind::kUnreachable);
  EXPECT_THAT(answer.error.text, Not(HasSubstr("hidden")));
}

TEST_F(HttpTest, NoAnswerToTheHandshake) {
  const UniqueFd silent(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_GE(silent.get(), 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  ASSERT_EQ(::bind(silent.get(), generic, size), 0);
  ASSERT_EQ(::getsockname(silent.get(), generic, &size), 0);
  ASSERT_EQ(::listen(silent.get(), 8), 0);
  ApiServerConfig with = config();
  with.server = "https://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  const auto made =
      client(with, with_option<event::Duration>(&HttpOptions::connect_timeout, milliseconds(200)));
  const Answer answer = get(*made, "/echo");
  ASSERT_TRUE(answer.failed);
  EXPECT_EQ(answer.error.kind, TransportError::Kind::kUnreachable);
}

TEST_F(HttpTest, CancelsWithoutAWord) {
  const auto made = client(config());
  Answer dropped;
  made->get({.target = "/echo"}, into(dropped)).reset();
  std::unique_ptr<HttpExchange> endless;
  int pieces = 0;
  endless = made->get({.target = "/endless"}, HttpHandler{
                                                  .on_head = {},
                                                  .on_data =
                                                      [&](std::string_view) {
                                                        if (++pieces == 3) {
                                                          endless.reset();
                                                        }
                                                      },
                                                  .on_end = {},
                                              });
  run_until([&] { return endless == nullptr; });
  EXPECT_EQ(get(*made, "/echo").head.status, 200);
  EXPECT_EQ(pieces, 3);
  EXPECT_FALSE(dropped.over);
}

TEST_F(HttpTest, RequestsMayBeStartedWithinCallbacks) {
  const auto made = client(config());
  Answer first;
  Answer second;
  std::unique_ptr<HttpExchange> next;
  std::unique_ptr<HttpExchange> exchange =
      made->get({.target = "/echo"}, into(first, [&] {
                  next = made->get({.target = "/echo"}, into(second));
                  exchange.reset();
                }));
  loop_->run();
  EXPECT_TRUE(first.over);
  EXPECT_EQ(second.head.status, 200);
}

TEST_F(HttpTest, ExchangesMayOutliveTheClient) {
  Answer answer;
  auto made = client(config());
  const auto exchange = made->get({.target = "/endless"}, into(answer));
  run_until([&] { return !answer.body.empty(); });
  made.reset();
  exchange->distrust_connection();
  EXPECT_FALSE(answer.over);
}

TEST_F(HttpTest, TokenIsReadAnewAfter401) {
  const TestFolder folder;
  ApiServerConfig with = config();
  with.token_file = folder.file("token");
  std::ofstream(with.token_file) << "one\n";
  const auto made = client(with);
  EXPECT_THAT(get(*made, "/echo").body, HasSubstr("Bearer one"));
  std::ofstream(with.token_file) << "two\n";
  EXPECT_THAT(get(*made, "/echo").body, HasSubstr("Bearer one"));
  EXPECT_EQ(get(*made, "/status?code=401").head.status, 401);
  EXPECT_THAT(get(*made, "/echo").body, HasSubstr("Bearer two"));
}

TEST_F(HttpTest, ACertificateThatChangesEndsWhatRuns) {
  const TestFolder folder;
  ApiServerConfig with = config();
  const auto install = [&](const std::string& name) {
    for (const std::string end : {".pem", ".key"}) {
      std::filesystem::copy_file(certificates->file(name + end), folder.file("own" + end),
                                 std::filesystem::copy_options::overwrite_existing);
    }
  };
  install("client");
  with.client_certificate.file = folder.file("own.pem");
  with.client_key.file = folder.file("own.key");
  const auto made =
      client(with, with_option<event::Duration>(&HttpOptions::certificate_poll, milliseconds(100)));
  EXPECT_THAT(get(*made, "/echo").body, HasSubstr("commonName=client"));
  Answer answer;
  const auto exchange = made->get({.target = "/endless"}, into(answer));
  run_until([&] { return !answer.body.empty(); });
  install("second");
  loop_->run();
  ASSERT_TRUE(answer.over);
  ASSERT_TRUE(answer.failed);
  EXPECT_EQ(answer.error.kind, TransportError::Kind::kBroken);
  EXPECT_THAT(get(*made, "/echo").body, HasSubstr("commonName=second"));
}

TEST_F(HttpTest, MissingFilesAreNamed) {
  ApiServerConfig with = config();
  with.client_certificate.file = "/nowhere/own.pem";
  const auto made = HttpClient::make(*loop_, with, {});
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error().text(), HasSubstr("client certificate: open /nowhere/own.pem"));
}

class NameSink : public api::Sink {
 public:
  void put(api::Shared<api::Service> service) override { names.insert(service->meta.key.text()); }
  void put(api::Shared<api::EndpointSlice>) override {}
  void put(api::Node) override {}
  void erase(api::Kind, const api::ObjectKey& key) override { names.erase(key.text()); }
  void replace_begin(api::Kind) override {
    names.clear();
    ++lists;
  }
  void replace_end(api::Kind) override {}
  void flush() override { history.push_back(names); }
  std::set<std::string> names;
  std::vector<std::set<std::string>> history;
  int lists = 0;
};

TEST_F(HttpTest, ReflectsAnApiServer) {
  const Stub stub({certificates->file("server.pem"), certificates->file("server.key"),
                   certificates->file("ca.pem")});
  ApiServerConfig with = config();
  with.server = "https://127.0.0.1:" + stub.port();
  NameSink sink;
  ApiSourceOptions options;
  options.random = [] { return 0.0; };
  const auto source = ApiSource::make(*loop_, with, "", sink, std::move(options));
  ASSERT_TRUE(source) << source.error().text();
  (*source)->start();
  run_until([&] { return sink.names.contains("shop/last"); });
  using Names = std::set<std::string>;
  EXPECT_THAT(sink.history, ::testing::ElementsAre(
                                Names{"shop/a", "shop/b"}, Names{"shop/a", "shop/b", "shop/c"},
                                Names{"shop/a", "shop/b", "shop/c"}, Names{"shop/b", "shop/late"},
                                Names{"shop/b", "shop/late", "shop/last"}));
  EXPECT_EQ(sink.lists, 2);
  EXPECT_TRUE((*source)->status().kinds.front().watching);
  EXPECT_FALSE((*source)->status().synced());  // the stub knows no slices
}

}  // namespace
}  // namespace fairlead::kube
