"""Where parameters live on the mesh, and how functions run on each device's part of them."""
