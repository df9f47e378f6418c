// SPDX-License-Identifier: Apache-2.0
// With real sockets on loopback; clients are threads, the loop runs in the test's own.
#include "health/http_server.h"

#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <chrono>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <netinet/in.h>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/unique_fd.h"
#include "health/pages.h"
#include "metrics/metrics.h"

namespace fairlead::health {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

UniqueFd connect_v4(net::Port port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(number(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (!fd ||
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return {};
  }
  return fd;
}

void send_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent <= 0) {
      return;
    }
    text.remove_prefix(static_cast<std::size_t>(sent));
  }
}

std::string read_all(int fd) {
  std::string text;
  std::array<char, 4096> buffer{};
  ssize_t got = 0;
  while ((got = ::read(fd, buffer.data(), buffer.size())) > 0) {
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return text;
}

class HttpServerTest : public ::testing::Test {
 protected:
  void serve(Routes routes) {
    const net::SocketAddress loopback{.address = net::IpAddress::parse("127.0.0.1").value(),
                                      .port = net::Port{0}};
    auto server = HttpServer::listen(*loop_, loopback, std::move(routes));
    ASSERT_TRUE(server.has_value()) << server.error().text();
    server_ = std::move(*server);
  }
  std::string request(std::string_view text) {
    std::string answer;
    std::jthread client([&, port = server_->port()] {
      const UniqueFd fd = connect_v4(port);
      send_all(fd.get(), text);
      answer = read_all(fd.get());
      loop_->stop();
    });
    loop_->run();
    client.join();
    return answer;
  }
  std::string get(std::string_view path, std::string_view method = "GET") {
    return request(std::string(method) + " " + std::string(path) +
                   " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  }

  std::unique_ptr<event::UvLoop> loop_ = event::make_uv_loop();
  metrics::Metrics metrics_;
  std::unique_ptr<HttpServer> server_;
};

HealthSnapshot snapshot_of(bool healthy, bool eligible) {
  const std::chrono::system_clock::time_point now(std::chrono::nanoseconds(1767323045678901234));
  return {.now = now,
          .families = {{net::Family::kIpv4, {.healthy = true, .last_updated = now}},
                       {net::Family::kIpv6,
                        {.healthy = healthy,
                         .last_updated = healthy ? now : now - std::chrono::seconds(100)}}},
          .node_eligible = eligible};
}

TEST_F(HttpServerTest, HealthPages) {
  HealthSnapshot snapshot = snapshot_of(true, true);
  serve(health_pages([&] { return snapshot; }, metrics_));
  EXPECT_THAT(
      get("/healthz"),
      AllOf(
          StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("Content-Type: application/json\r\n"),
          HasSubstr("X-Content-Type-Options: nosniff\r\n"),
          EndsWith("\r\n\r\n"
                   R"({"lastUpdated":"2026-01-02T03:04:05.678901234Z",)"
                   R"("currentTime":"2026-01-02T03:04:05.678901234Z","nodeEligible":true,)"
                   R"("healthy":true,"status":{)"
                   R"("IPv4":{"lastUpdated":"2026-01-02T03:04:05.678901234Z","healthy":true},)"
                   R"("IPv6":{"lastUpdated":"2026-01-02T03:04:05.678901234Z","healthy":true}}})")));

  snapshot = snapshot_of(true, false);
  EXPECT_THAT(get("/healthz"), AllOf(StartsWith("HTTP/1.1 503 "),
                                     HasSubstr(R"("nodeEligible":false,"healthy":false)")));
  EXPECT_THAT(get("/livez"),
              AllOf(StartsWith("HTTP/1.1 200 "),
                    HasSubstr(R"("currentTime":"2026-01-02T03:04:05.678901234Z","healthy":true)")));

  snapshot = snapshot_of(false, true);
  EXPECT_THAT(get("/livez"),
              AllOf(StartsWith("HTTP/1.1 503 "),
                    HasSubstr(R"({"lastUpdated":"2026-01-02T03:02:25.678901234Z")")));
  EXPECT_THAT(metrics_.text(), AllOf(HasSubstr("kubeproxy_proxy_healthz_total{code=\"200\"} 1\n"),
                                     HasSubstr("kubeproxy_proxy_healthz_total{code=\"503\"} 1\n"),
                                     HasSubstr("kubeproxy_proxy_livez_total{code=\"503\"} 1\n")));
}

TEST_F(HttpServerTest, MetricsPages) {
  int scrapes = 0;
  serve(metrics_pages(metrics_, "ipvs", [] { return R"({"failed":[]})"; }, [&] { ++scrapes; }));
  EXPECT_THAT(
      get("/proxyMode"),
      AllOf(StartsWith("HTTP/1.1 200 "), HasSubstr("Content-Type: text/plain; charset=utf-8\r\n"),
            HasSubstr("X-Content-Type-Options: nosniff\r\n"), EndsWith("\r\n\r\nipvs")));
  EXPECT_THAT(get("/healthz"), EndsWith("\r\n\r\nok"));
  EXPECT_THAT(get("/statusz"), AllOf(HasSubstr("Content-Type: application/json\r\n"),
                                     EndsWith("\r\n\r\n{\"failed\":[]}")));
  EXPECT_THAT(get("/metrics?x=y"),
              AllOf(HasSubstr("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"),
                    HasSubstr("\nfairlead_failed_keys 0\n")));
  EXPECT_EQ(scrapes, 1);
}

TEST_F(HttpServerTest, OtherPathsMethodsAndBodies) {
  serve({{"/a", [] { return Response{.body = "yes"}; }}});
  EXPECT_THAT(get("/b"), AllOf(StartsWith("HTTP/1.1 404 "), EndsWith("404 page not found\n")));
  EXPECT_THAT(get("/a", "HEAD"), AllOf(HasSubstr("Content-Length: 3\r\n"), EndsWith("\r\n\r\n")));
  EXPECT_THAT(request("POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n"
                      "\r\nhello"),
              EndsWith("yes"));
  EXPECT_THAT(request("nonsense\r\n\r\n"), Not(HasSubstr("200 OK")));
}

TEST_F(HttpServerTest, ALargeAnswer) {
  const std::string body(3'000'000, 'x');
  serve({{"/", [&] { return Response{.body = body}; }}});
  EXPECT_THAT(get("/"), EndsWith("\r\n\r\n" + body));
}

TEST_F(HttpServerTest, KeepsConnectionsAndServesOthersMeanwhile) {
  serve({{"/", [] { return Response{.body = "yes"}; }}});
  const UniqueFd silent = connect_v4(server_->port());
  ASSERT_TRUE(silent);
  constexpr std::string_view kRequest = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
  send_all(silent.get(), kRequest.substr(0, 10));
  EXPECT_THAT(get("/"), EndsWith("yes"));
  EXPECT_THAT(request("GET / HTTP/1.1\r\nHost: x\r\n\r\n"
                      "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
              AllOf(HasSubstr("yesHTTP/1.1 200"), EndsWith("yes")));
}

TEST_F(HttpServerTest, DestroyedWithOpenConnections) {
  serve({{"/", [] { return Response{.body = "yes"}; }}});
  const UniqueFd silent = connect_v4(server_->port());
  EXPECT_THAT(get("/"), EndsWith("yes"));
  server_.reset();
  EXPECT_EQ(read_all(silent.get()), "");
}

TEST_F(HttpServerTest, PortInUseIsAnErrorThatNamesIt) {
  serve({});
  for (const char* text : {"127.0.0.1", "0.0.0.0", "::"}) {
    const net::SocketAddress same{.address = net::IpAddress::parse(text).value(),
                                  .port = server_->port()};
    const auto second = HttpServer::listen(*loop_, same, {});
    ASSERT_FALSE(second.has_value()) << text;
    EXPECT_EQ(second.error().errno_value(), EADDRINUSE);
    EXPECT_THAT(second.error().text(), HasSubstr(same.text()));
  }
}

TEST(Rfc3339, PrintsNanoseconds) {
  EXPECT_EQ(rfc3339(std::chrono::system_clock::time_point(std::chrono::nanoseconds(7))),
            "1970-01-01T00:00:00.000000007Z");
}

}  // namespace
}  // namespace fairlead::health
