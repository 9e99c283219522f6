"""Python packages that an agent puts beside a kernel; none of them is for the agent itself."""
