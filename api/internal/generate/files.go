package generate

// Files makes every generated file, by its path from root, the folder of the repository.
func Files(root string) (map[string][]byte, error) {
	document, err := Document(root)
	if err != nil {
		return nil, err
	}
	text, err := document.JSON()
	if err != nil {
		return nil, err
	}
	source, err := client(root)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{DocumentFile: text, ClientFile: source}, nil
}
