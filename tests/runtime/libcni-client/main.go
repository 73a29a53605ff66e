// Command libcni-client drives a network list through libcni, as cnitool does.
//
// Usage: libcni-client VERB CONFLIST CONTAINERID NETNS IFNAME
//
// VERB: add, check, del, version. Plugins are searched in CNI_PATH; CAP_ARGS holds the
// runtime's capability arguments as JSON; CACHE_DIR is where libcni keeps results.
// Prints what the plugins return; errors go to stderr with exit status 1.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 6 {
		return fmt.Errorf("usage: %s VERB CONFLIST CONTAINERID NETNS IFNAME", os.Args[0])
	}
	verb := os.Args[1]
	list, err := libcni.ConfListFromFile(os.Args[2])
	if err != nil {
		return err
	}
	runtime := &libcni.RuntimeConf{
		ContainerID: os.Args[3],
		NetNS:       os.Args[4],
		IfName:      os.Args[5],
	}
	if text := os.Getenv("CAP_ARGS"); text != "" {
		if err := json.Unmarshal([]byte(text), &runtime.CapabilityArgs); err != nil {
			return fmt.Errorf("CAP_ARGS: %w", err)
		}
	}
	cni := libcni.NewCNIConfigWithCacheDir(
		filepath.SplitList(os.Getenv("CNI_PATH")), os.Getenv("CACHE_DIR"), nil)
	ctx := context.Background()

	switch verb {
	case "add":
		result, err := cni.AddNetworkList(ctx, list, runtime)
		if err != nil {
			return err
		}
		return result.Print()
	case "check":
		return cni.CheckNetworkList(ctx, list, runtime)
	case "del":
		return cni.DelNetworkList(ctx, list, runtime)
	case "version":
		for _, plugin := range list.Plugins {
			info, err := cni.GetVersionInfo(ctx, plugin.Network.Type)
			if err != nil {
				return err
			}
			if err := json.NewEncoder(os.Stdout).Encode(info.SupportedVersions()); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("unknown verb %q", verb)
}
