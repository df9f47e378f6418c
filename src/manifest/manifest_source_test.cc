// SPDX-License-Identifier: Apache-2.0
// With a real directory and a real loop: what matters here is what the kernel tells, and when.
#include "manifest/manifest_source.h"

#include <chrono>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace fairlead::manifest {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// Keeps what was delivered, as the store does.
class Table : public api::Sink {
 public:
  void put(api::Shared<api::Service> service) override {
    ++puts;
    ports[service->meta.key.name] = net::number(service->ports[0].port);
    addresses[service->meta.key.name] =
        service->cluster_ips.empty() ? "" : service->cluster_ips[0].text();
  }
  void put(api::Shared<api::EndpointSlice> slice) override {
    endpoints[slice->meta.key.name] = slice->endpoints.size();
  }
  void put(api::Node node) override { nodes.insert(node.meta.key.name); }
  void erase(api::Kind kind, const api::ObjectKey& key) override {
    ports.erase(kind == api::Kind::kService ? key.name : "");
    endpoints.erase(kind == api::Kind::kEndpointSlice ? key.name : "");
  }
  void replace_begin(api::Kind /*kind*/) override { ++begun; }
  void replace_end(api::Kind /*kind*/) override { ++ended; }
  void flush() override { ++flushes; }

  std::map<std::string, int> ports;
  std::map<std::string, std::string> addresses;
  std::map<std::string, std::size_t> endpoints;
  std::set<std::string> nodes;
  int puts = 0;
  int begun = 0;
  int ended = 0;
  int flushes = 0;
};

std::string service(const std::string& name, int port = 80) {
  return "---\napiVersion: v1\nkind: Service\nmetadata: {name: " + name +
         "}\nspec:\n  ports: [{port: " + std::to_string(port) + "}]\n";
}

void write(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }

class Source : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "fairlead-manifest-XXXXXX").string();
    root = ::mkdtemp(pattern.data());
    dir = root / "manifests";
    fs::create_directory(dir);
    options.path = dir.string();
    options.settle = 10ms;
    options.settle_at_most = 50ms;
    options.patience = 100ms;
    options.poll = 50ms;
  }
  void TearDown() override {
    source.reset();
    std::error_code ignored;
    fs::remove_all(root, ignored);
  }

  void start() {
    source = std::make_unique<ManifestSource>(*loop, table, options);
    source->start();
  }
  /// Runs the loop until the condition holds; false after a generous deadline.
  bool eventually(const std::function<bool()>& holds) {
    const auto deadline = std::chrono::steady_clock::now() + 5s;
    while (!holds() && std::chrono::steady_clock::now() < deadline) {
      run_for(5ms);
    }
    return holds();
  }
  void run_for(std::chrono::milliseconds time) {
    const auto stop = loop->timer([this] { loop->stop(); });
    stop->start(time);
    loop->run();
  }
  bool becomes(const std::map<std::string, int>& ports) {
    const bool ok = eventually([&] { return table.ports == ports; });
    EXPECT_EQ(table.ports, ports);
    return ok;
  }
  std::vector<std::string> errors() const {
    std::vector<std::string> out;
    for (const Problem& problem : source->errors()) {
      out.push_back(problem.text());
    }
    return out;
  }

  fs::path root;
  fs::path dir;
  ManifestOptions options;
  std::unique_ptr<event::UvLoop> loop = event::make_uv_loop();
  Table table;
  std::unique_ptr<ManifestSource> source;
};

TEST_F(Source, DeliversWithinStart) {
  write(dir / "a.yaml", service("a"));
  write(dir / "b.json", R"({"apiVersion":"v1","kind":"Node","metadata":{"name":"n"}})");
  write(dir / ".hidden.yaml", service("hidden"));
  write(dir / "notes.txt", "no manifest");
  fs::create_directory(dir / "sub.yaml");
  start();
  EXPECT_EQ(table.ports, (std::map<std::string, int>{{"a", 80}}));
  EXPECT_EQ(table.nodes, (std::set<std::string>{"n"}));
  EXPECT_EQ(table.begun, 3);
  EXPECT_EQ(table.ended, 3);
  EXPECT_EQ(table.flushes, 1);
  EXPECT_TRUE(source->synced());
  EXPECT_THAT(errors(), IsEmpty());
}

TEST_F(Source, EmptyDirectoryIsSynced) {
  start();
  EXPECT_TRUE(source->synced());
  EXPECT_EQ(table.ended, 3);
}

TEST_F(Source, EditInPlace) {
  write(dir / "a.yaml", service("a"));
  start();
  write(dir / "a.yaml", service("a", 81));
  EXPECT_TRUE(becomes({{"a", 81}}));
  // As much text, and within the same tick of the file system's clock as likely as not.
  for (int port = 82; port < 92; ++port) {
    write(dir / "a.yaml", service("a", port));
    EXPECT_TRUE(becomes({{"a", port}}));
  }
  EXPECT_EQ(table.begun, 3);
}

TEST_F(Source, OnlyWhatChangedIsDelivered) {
  write(dir / "a.yaml", service("a") + service("b"));
  write(dir / "c.yaml", service("c"));
  start();
  EXPECT_EQ(table.puts, 3);
  write(dir / "a.yaml", service("a") + service("b", 81));
  EXPECT_TRUE(becomes({{"a", 80}, {"b", 81}, {"c", 80}}));
  EXPECT_EQ(table.puts, 4);
}

TEST_F(Source, SlowWriterIsWaitedFor) {
  write(dir / "a.yaml", service("a") + service("b"));
  start();
  const int fd = ::open((dir / "a.yaml").c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
  const std::string first = service("a", 81);
  ASSERT_EQ(::write(fd, first.data(), first.size()), static_cast<ssize_t>(first.size()));
  write(dir / "other.yaml", service("other"));
  EXPECT_TRUE(becomes({{"a", 80}, {"b", 80}, {"other", 80}}));
  const std::string second = service("b", 82);
  ASSERT_EQ(::write(fd, second.data(), second.size()), static_cast<ssize_t>(second.size()));
  ::close(fd);
  EXPECT_TRUE(becomes({{"a", 81}, {"b", 82}, {"other", 80}}));
}

TEST_F(Source, WriterThatNeverClosesIsTakenWhenItRests) {
  write(dir / "a.yaml", service("a"));
  start();
  const int fd = ::open((dir / "a.yaml").c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
  const std::string text = service("a", 81);
  ASSERT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  EXPECT_TRUE(becomes({{"a", 81}}));
  ::close(fd);
}

TEST_F(Source, RenameOver) {
  write(dir / "a.yaml", service("a"));
  start();
  write(dir / ".a.yaml.swp", service("a", 81));
  fs::rename(dir / ".a.yaml.swp", dir / "a.yaml");
  EXPECT_TRUE(becomes({{"a", 81}}));
}

TEST_F(Source, FilesComeAndGo) {
  start();
  write(dir / "a.yaml", service("a"));
  EXPECT_TRUE(becomes({{"a", 80}}));
  write(root / "b.yaml", service("b"));
  fs::rename(root / "b.yaml", dir / "b.yaml");
  EXPECT_TRUE(becomes({{"a", 80}, {"b", 80}}));
  fs::create_hard_link(dir / "b.yaml", root / "keep");
  fs::remove(dir / "a.yaml");
  EXPECT_TRUE(becomes({{"b", 80}}));
  fs::rename(dir / "b.yaml", dir / "b.off");
  EXPECT_TRUE(becomes({}));
  fs::create_hard_link(root / "keep", dir / "c.yaml");
  EXPECT_TRUE(becomes({{"b", 80}}));
}

TEST_F(Source, ConfigMapSwap) {
  fs::create_directory(dir / "..v1");
  fs::create_directory(dir / "..v2");
  write(dir / "..v1" / "a.yaml", service("a"));
  write(dir / "..v1" / "b.yaml", service("b"));
  write(dir / "..v2" / "a.yaml", service("a", 81));
  write(dir / "..v2" / "c.yaml", service("c"));
  fs::create_symlink("..v1", dir / "..data");
  fs::create_symlink("..data/a.yaml", dir / "a.yaml");
  fs::create_symlink("..data/b.yaml", dir / "b.yaml");
  start();
  EXPECT_EQ(table.ports, (std::map<std::string, int>{{"a", 80}, {"b", 80}}));
  // The order of the kubelet's atomic writer.
  fs::create_symlink("..v2", dir / "..data_tmp");
  fs::rename(dir / "..data_tmp", dir / "..data");
  fs::create_symlink("..data/c.yaml", dir / "c.yaml");
  fs::remove(dir / "b.yaml");
  fs::remove_all(dir / "..v1");
  EXPECT_TRUE(becomes({{"a", 81}, {"c", 80}}));
  EXPECT_THAT(errors(), IsEmpty());
}

TEST_F(Source, TargetsOfLinksAreWatched) {
  fs::create_directory(root / "elsewhere");
  write(root / "elsewhere" / "target.conf", service("a"));
  fs::create_symlink(root / "elsewhere" / "target.conf", dir / "a.yaml");
  start();
  write(root / "elsewhere" / "target.conf", service("a", 81));
  EXPECT_TRUE(becomes({{"a", 81}}));
  write(root / "elsewhere" / "new", service("a", 82));
  fs::rename(root / "elsewhere" / "new", root / "elsewhere" / "target.conf");
  EXPECT_TRUE(becomes({{"a", 82}}));
  // Gone, but the link is still there: that is an error, not a wish.
  fs::remove(root / "elsewhere" / "target.conf");
  EXPECT_TRUE(eventually([&] { return !errors().empty(); }));
  EXPECT_TRUE(becomes({{"a", 82}}));
  fs::remove(dir / "a.yaml");
  EXPECT_TRUE(becomes({}));
  EXPECT_THAT(errors(), IsEmpty());
}

TEST_F(Source, DirectoryItselfBehindALink) {
  fs::create_directory(root / "v1");
  fs::create_directory(root / "v2");
  write(root / "v1" / "a.yaml", service("a"));
  write(root / "v2" / "a.yaml", service("a", 82));
  fs::create_symlink("v1", root / "current");
  options.path = (root / "current").string();
  start();
  write(root / "v1" / "a.yaml", service("a", 81));
  EXPECT_TRUE(becomes({{"a", 81}}));
  fs::create_symlink("v2", root / "next");
  fs::rename(root / "next", root / "current");
  EXPECT_TRUE(becomes({{"a", 82}}));
  write(root / "v2" / "a.yaml", service("a", 83));
  EXPECT_TRUE(becomes({{"a", 83}}));
}

TEST_F(Source, DirectoryCreatedLater) {
  options.path = (root / "later" / "manifests").string();
  start();
  EXPECT_FALSE(source->synced());
  EXPECT_EQ(table.begun, 0);
  EXPECT_THAT(errors(), ElementsAre(HasSubstr("later/manifests: open: ")));
  fs::create_directory(root / "later");
  run_for(20ms);
  fs::create_directory(root / "later" / "manifests");
  EXPECT_TRUE(eventually([&] { return source->synced(); }));
  EXPECT_THAT(errors(), IsEmpty());
  write(root / "later" / "manifests" / "a.yaml", service("a"));
  EXPECT_TRUE(becomes({{"a", 80}}));
}

TEST_F(Source, DirectoryThatGoesAwayKeepsItsServices) {
  write(dir / "a.yaml", service("a"));
  start();
  fs::rename(dir, root / "aside");
  EXPECT_TRUE(eventually([&] { return !errors().empty(); }));
  EXPECT_THAT(errors(), ElementsAre(HasSubstr("stays in force")));
  EXPECT_TRUE(becomes({{"a", 80}}));
  fs::create_directory(root / "next");
  write(root / "next" / "b.yaml", service("b"));
  fs::rename(root / "next", dir);
  EXPECT_TRUE(becomes({{"b", 80}}));
  EXPECT_THAT(errors(), IsEmpty());
}

TEST_F(Source, SingleFile) {
  options.path = (root / "shop.conf").string();
  write(options.path, service("a"));
  start();
  EXPECT_TRUE(becomes({{"a", 80}}));
  write(options.path, service("a", 81));
  EXPECT_TRUE(becomes({{"a", 81}}));
  write(root / "tmp", service("a", 82) + service("b"));
  fs::rename(root / "tmp", options.path);
  EXPECT_TRUE(becomes({{"a", 82}, {"b", 80}}));
  fs::remove(options.path);
  EXPECT_TRUE(eventually([&] { return !errors().empty(); }));
  EXPECT_TRUE(becomes({{"a", 82}, {"b", 80}}));
  write(options.path, "# none\n");
  EXPECT_TRUE(becomes({}));
}

TEST_F(Source, BrokenThenMended) {
  write(dir / "a.yaml", service("a") + service("b"));
  write(dir / "bad.yaml", "kind: [\n");
  start();
  EXPECT_TRUE(source->synced());
  EXPECT_EQ(table.ports, (std::map<std::string, int>{{"a", 80}, {"b", 80}}));
  EXPECT_THAT(errors(), ElementsAre(HasSubstr("bad.yaml:")));
  write(dir / "bad.yaml", service("bad"));
  EXPECT_TRUE(becomes({{"a", 80}, {"b", 80}, {"bad", 80}}));
  EXPECT_THAT(errors(), IsEmpty());

  write(dir / "a.yaml", service("a", 81) + service("b", 70000));
  EXPECT_TRUE(eventually([&] { return !errors().empty(); }));
  EXPECT_THAT(errors(),
              ElementsAre(HasSubstr("a.yaml:12:18: Service default/b: spec.ports[0].port")));
  EXPECT_TRUE(becomes({{"a", 80}, {"b", 80}, {"bad", 80}}));
  write(dir / "a.yaml", service("a", 81));
  EXPECT_TRUE(becomes({{"a", 81}, {"bad", 80}}));
  EXPECT_THAT(errors(), IsEmpty());
}

TEST_F(Source, UnfitFilesAreErrorsOfTheirOwn) {
  write(dir / "a.yaml", service("a"));
  ASSERT_EQ(::mkfifo((dir / "fifo.yaml").c_str(), 0600), 0);
  fs::create_symlink("nowhere", dir / "dangling.yaml");
  start();
  EXPECT_EQ(table.ports, (std::map<std::string, int>{{"a", 80}}));
  EXPECT_THAT(errors(), ElementsAre(HasSubstr("dangling.yaml: open: "),
                                    HasSubstr("fifo.yaml: is not a regular file")));
  write(dir / "nowhere", service("b"));
  EXPECT_TRUE(becomes({{"a", 80}, {"b", 80}}));
  fs::remove(dir / "fifo.yaml");
  EXPECT_TRUE(eventually([&] { return errors().empty(); }));
}

TEST_F(Source, ManyEventsAreOneDelivery) {
  start();
  const int before = table.flushes;
  for (int i = 0; i < 50; ++i) {
    write(dir / ("f" + std::to_string(i) + ".yaml"), service("s" + std::to_string(i)));
  }
  EXPECT_TRUE(eventually([&] { return table.ports.size() == 50; }));
  EXPECT_LE(table.flushes - before, 5);
}

TEST_F(Source, StateFileKeepsAddresses) {
  options.state_file = (root / "state").string();
  options.allocation.service_ranges = {*net::IpPrefix::parse("10.96.0.0/26")};
  write(dir / "z.yaml", service("z"));
  start();
  const std::string address = table.addresses.at("z");
  source.reset();
  std::string many;
  for (int i = 0; i < 45; ++i) {
    many += service("a" + std::to_string(i));
  }
  write(dir / "many.yaml", many);
  start();
  EXPECT_EQ(table.addresses.at("z"), address);
  const Loaded loaded = load_once(options);
  EXPECT_EQ(loaded.services.back()->cluster_ips[0].text(), address);
  source.reset();
  // Not ours: told, and left as it is.
  write(options.state_file, "scribble\n");
  start();
  EXPECT_THAT(errors(), ElementsAre(HasSubstr("state: line 1 is not")));
  std::string text;
  std::ifstream(options.state_file) >> text;
  EXPECT_EQ(text, "scribble");
}

TEST_F(Source, LoadOnce) {
  write(dir / "a.yaml", service("a"));
  write(dir / "bad.yaml", "kind: [\n");
  const Loaded loaded = load_once(options);
  ASSERT_EQ(loaded.services.size(), 1U);
  ASSERT_EQ(loaded.errors.size(), 1U);
  options.path = (root / "nothing").string();
  EXPECT_THAT(load_once(options).errors.front().text(), HasSubstr("nothing: open: "));
}

}  // namespace
}  // namespace fairlead::manifest
