package main

import "github.com/spf13/cobra"

// requestCommands finishes the commands of `holdfast request`: what is read and written where the user is, and what needs no
// vault, since people sign on machines of their own.
func requestCommands(a *app, request *cobra.Command) {
	for _, c := range request.Commands() {
		switch c.Name() {
		case "make":
			intoFile(a, c, "The request is FILE. Each who agrees: holdfast request sign-with KEY FILE\nThen: holdfast request submit FILE")
		case "show":
			showRequest(a, c)
		}
	}
	request.AddCommand(requestSignCommand(a))
}
