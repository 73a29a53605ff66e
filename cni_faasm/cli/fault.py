class ToolError(Exception):
    """End the tool with exit status 1, a message, and a word on what to do about it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy
