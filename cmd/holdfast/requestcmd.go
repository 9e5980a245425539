package main

import "github.com/spf13/cobra"

// requestCommands are those of `holdfast request` that need no vault: people sign on machines of their own.
func requestCommands(*app) []*cobra.Command { return nil }
