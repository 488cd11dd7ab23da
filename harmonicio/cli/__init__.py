"""The command line: one module per noun, thin. Commands read settings, ask a role, and show the answer.

    __main__    the entry point: errors become one line and an exit code
    app         the table of commands; only the module of the command that runs is imported
    invocation  what the options before the command say: settings, the master, the token
    console     what people and programs see
    logs        what a role that runs in the foreground logs

A command's module offers ``app`` (a noun with verbs) or ``run`` (a bare verb), and has one row in the table.
"""
