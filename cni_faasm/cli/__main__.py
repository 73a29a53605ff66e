from cni_faasm.cli.main import main

if __name__ == "__main__":
    main()
